"""`python -m bench.cpu.decode --model PATH`: greedy decoding, torch_native and paste_cpu alternating by prompt."""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.cpu import host, record

PROMPTS = (
    "The capital of France is",
    "Write a Python function that reads a CSV file and returns its rows as dictionaries.\n",
    "Once upon a time there was a small lighthouse keeper who",
    "List three reasons why the sky appears blue:\n1.",
    "def quicksort(items):\n",
    "Dear Mr. Smith,\nI am writing to you about",
    "Translate to German: Good morning, how are you today?\n",
    '{"name": "search", "arguments": {"query": "',
)


def generate(runner: Any, backend: Any, prompt: Sequence[int], steps: int) -> tuple[list[int], list[Any], list[float]]:
    """Greedy tokens, the logits each came from, and the seconds of every decode step."""
    host.clear(runner)
    with host.using(runner, backend):
        token, logits, batch = host.prefill(runner, [prompt])
        tokens, seen, times = [int(token)], [logits], []
        for _ in range(steps):
            start = time.perf_counter()
            token, logits = host.decode(runner, token, batch)
            times.append(time.perf_counter() - start)
            tokens.append(int(token))
            seen.append(logits)
    return tokens, seen, times


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of a Llama model with its tokenizer")
    parser.add_argument("--steps", type=int, default=48, help="tokens per prompt (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=None, help="torch threads (default: torch's own)")
    parser.add_argument("--history", type=int, default=0, help="tokens of text before every prompt (default: none)")
    arguments = parser.parse_args()
    import torch
    from transformers import AutoTokenizer

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    runner = host.load_runner(arguments.model, tokens=8192)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    filler = tokenizer.encode("The quick brown fox jumps over the lazy dog. " * (arguments.history // 9 + 1))
    prompts = [filler[: arguments.history] + tokenizer.encode(prompt) for prompt in PROMPTS]
    stock, ours = runner.attn_backend, host.paste_backend(runner)
    times: dict[str, list[float]] = {"torch_native": [], "paste_cpu": []}
    equal = 0
    for prompt in prompts:
        wanted, logits, slow = generate(runner, stock, prompt, arguments.steps)
        found, others, fast = generate(runner, ours, prompt, arguments.steps)
        times["torch_native"] += slow
        times["paste_cpu"] += fast
        if wanted != found:
            print("A token differs from torch_native's; no speed is shown.")
            return 1
        equal += all(torch.equal(one, other) for one, other in zip(logits, others, strict=True))
    slow_s, fast_s = (statistics.median(times[name]) for name in ("torch_native", "paste_cpu"))
    print(f"torch_native {slow_s * 1e3:7.1f} ms per token  {1 / slow_s:5.1f} tok/s")
    print(f"paste_cpu    {fast_s * 1e3:7.1f} ms per token  {1 / fast_s:5.1f} tok/s  {slow_s / fast_s:.2f}x")
    print(f"same text on all {len(prompts)} prompts, bit-equal logits on {equal}")
    record.append(
        "cpu_decode",
        {
            "model": arguments.model.name,
            "threads": torch.get_num_threads(),
            "history": arguments.history,
            "steps": arguments.steps,
            "same_text": [len(prompts), len(prompts)],
            "bits_equal": [equal, len(prompts)],
            **{name: record.spread(seconds) for name, seconds in times.items()},
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
