"""`python -m bench.cpu.verify --model PATH`: a pass over some drafts against a decode step, on paste_cpu."""

import argparse
import random
import sys
import time
from pathlib import Path
from typing import Any

from bench.cpu import host, record

DRAFTS = (1, 2, 4, 8, 16)


def decode(runner: Any, prompt: list[int], steps: int) -> tuple[list[int], Any, list[float]]:
    """The tokens that are decoded, the logits behind each, and the seconds each step took."""
    import torch

    host.clear(runner)
    token, _, batch = host.prefill(runner, [prompt])
    tokens, logits, times = [], [], []
    for _ in range(steps):
        tokens.append(int(token))
        start = time.perf_counter()
        token, seen = host.decode(runner, token, batch)
        times.append(time.perf_counter() - start)
        logits.append(seen)
    return tokens, torch.cat(logits), times


def verify(runner: Any, prompt: list[int], drafts: list[int], rounds: int) -> tuple[Any, list[float]]:
    """The logits behind each draft, and the seconds of each of some passes."""
    host.clear(runner)
    _, _, batch = host.prefill(runner, [prompt])
    run = host.verification(runner, batch, drafts)
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        logits = run()
        times.append(time.perf_counter() - start)
    return logits, times


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of a Llama model")
    parser.add_argument("--history", type=int, default=300, help="tokens before the drafts (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=16, help="timings of each (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: %(default)s)")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(arguments.threads)
    runner = host.load_runner(arguments.model, tokens=8192)
    prompt = random.Random(1).choices(range(runner.model_config.vocab_size), k=arguments.history)
    with host.using(runner, host.paste_backend(runner)):
        tokens, wanted, steps = decode(runner, prompt, max(*DRAFTS, arguments.rounds))
        one = record.spread(steps)["p50_s"]
        print(f"a decode step {one * 1e3:6.1f} ms")
        for drafts in DRAFTS:
            logits, times = verify(runner, prompt, tokens[:drafts], arguments.rounds)
            if not torch.equal(logits.argmax(-1), wanted[:drafts].argmax(-1)):
                print("A verified token differs from the decoded one; no speed is shown.")
                return 1
            equal, took = torch.equal(logits, wanted[:drafts]), record.spread(times)
            same = "bit-equal logits" if equal else "same tokens"
            print(f"{drafts:>3} drafts    {took['p50_s'] * 1e3:6.1f} ms  {took['p50_s'] / one:4.2f} steps  {same}")
            result = {"drafts": drafts, "bits_equal": equal, "decode_step_s": one, "verify": took}
            shape = {"model": arguments.model.name, "threads": torch.get_num_threads(), "history": arguments.history}
            record.append("cpu_verify", {**shape, **result})
    return 0


if __name__ == "__main__":
    sys.exit(main())
