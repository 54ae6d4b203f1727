"""`python -m bench.cpu.extend`: a turn of new tokens on a long history, torch_native and paste_cpu alternating."""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.cpu import host, record

CASES = ((200, 36_000), (250, 70_000))


def timed(run: Callable[[], Any], times: list[float]) -> Any:
    start = time.perf_counter()
    result = run()
    times.append(time.perf_counter() - start)
    return result


def measure(runner: Any, new: int, history: int, rounds: int) -> dict[str, Any] | None:
    """Time both backends on the same cached history; None when their logits differ."""
    import torch

    stock, ours = runner.attn_backend, host.paste_backend(runner)
    random.seed(history)
    host.clear(runner)
    vocabulary = runner.model_config.vocab_size
    with host.using(runner, ours):
        _, _, batch = host.prefill(runner, [random.choices(range(vocabulary), k=history)])
    run = host.extension(runner, batch, random.choices(range(vocabulary), k=new))
    times: dict[str, list[float]] = {"torch_native": [], "paste_cpu": []}
    wanted = found = None
    for _ in range(rounds):
        with host.using(runner, stock):
            wanted = timed(run, times["torch_native"])
        with host.using(runner, ours):
            found = timed(run, times["paste_cpu"])
        if wanted is None or found is None or not torch.allclose(wanted.float(), found.float(), atol=2e-2, rtol=2e-2):
            return None
    assert wanted is not None
    return {
        "new": new,
        "history": history,
        "threads": torch.get_num_threads(),
        "bits_equal": bool(torch.equal(wanted, found)),
        **{name: record.spread(seconds) for name, seconds in times.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="timings per backend and case (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=None, help="torch threads (default: torch's own)")
    parser.add_argument("--case", action="append", metavar="NEW,HISTORY", help="tokens; may be given several times")
    arguments = parser.parse_args()
    cases = [tuple(map(int, case.split(","))) for case in arguments.case or ()] or CASES
    import torch

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        model = host.write_tiny_model(Path(folder) / "tiny")
        tokens = max(new + history for new, history in cases) + 1024
        runner = host.load_runner(model, tokens=tokens, load_format="dummy", context_length=tokens)
        print(f"{'new':>5} {'history':>8} {'torch_native':>13} {'paste_cpu':>10} {'ratio':>6}  logits")
        for new, history in cases:
            result = measure(runner, new, history, arguments.rounds)
            if result is None:
                print(f"{new:>5} {history:>8}  the logits differ; no speed is shown")
                return 1
            slow, fast = result["torch_native"]["p50_s"], result["paste_cpu"]["p50_s"]
            equal = "bit-equal" if result["bits_equal"] else "within tolerance"
            print(f"{new:>5} {history:>8} {slow:>12.2f}s {fast:>9.3f}s {slow / fast:>5.0f}x  {equal}")
            record.append("cpu_extend", {"model": "llama 2 layers, hidden 128, dummy", **result})
    return 0


if __name__ == "__main__":
    sys.exit(main())
