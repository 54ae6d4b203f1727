"""`python -m bench.cpu.prefill --model PATH`: prompts of some lengths, torch_native and paste_cpu alternating."""

import argparse
import random
import sys
import time
from pathlib import Path
from typing import Any

from bench.cpu import host, record

LENGTHS = (64, 256, 1024)


def measure(runner: Any, ours: Any, length: int, rounds: int) -> dict[str, Any] | None:
    """Time both backends on the same prompt; None when their logits differ."""
    import torch

    prompt = random.Random(length).choices(range(runner.model_config.vocab_size), k=length)
    times: dict[str, list[float]] = {"torch_native": [], "paste_cpu": []}
    for _ in range(rounds):
        found = {}
        for name, backend in (("torch_native", runner.attn_backend), ("paste_cpu", ours)):
            host.clear(runner)
            with host.using(runner, backend):
                start = time.perf_counter()
                _, found[name], _ = host.prefill(runner, [prompt])
                times[name].append(time.perf_counter() - start)
        if not torch.equal(found["torch_native"], found["paste_cpu"]):
            return None
    return {"tokens": length, "bits_equal": True, **{name: record.spread(seconds) for name, seconds in times.items()}}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of a model")
    parser.add_argument("--rounds", type=int, default=5, help="timings per backend and length (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: %(default)s)")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(arguments.threads)
    runner = host.load_runner(arguments.model, tokens=8192)
    ours = host.paste_backend(runner)
    print(f"{'tokens':>6} {'torch_native':>13} {'paste_cpu':>10} {'ratio':>6}  logits")
    for length in LENGTHS:
        result = measure(runner, ours, length, arguments.rounds)
        if result is None:
            print(f"{length:>6}  the logits differ; no speed is shown")
            return 1
        slow, fast = result["torch_native"]["p50_s"], result["paste_cpu"]["p50_s"]
        print(f"{length:>6} {slow:>12.3f}s {fast:>9.3f}s {slow / fast:>5.2f}x  bit-equal")
        record.append("cpu_prefill", {"model": arguments.model.name, "threads": torch.get_num_threads(), **result})
    return 0


if __name__ == "__main__":
    sys.exit(main())
