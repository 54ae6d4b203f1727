"""`python greedy_text.py MODEL`: what torch_native and paste_cpu generate in one process, as JSON on the last line."""

import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
PROMPTS = (
    "The capital of France is",
    '{"name": "search", "arguments": {"query": "',
    "Write a Python function that reads a CSV file.\n" * 20,
)
STEPS = 8


def generate(runner: Any, backend: Any, prompts: list[list[int]]) -> tuple[list[list[int]], list[Any]]:
    """The tokens of each step, a list for each request, and the logits they came from."""
    from bench.cpu import host

    host.clear(runner)
    with host.using(runner, backend):
        token, logits, batch = host.prefill(runner, prompts)
        tokens, seen = [token.tolist()], [logits]
        for _ in range(STEPS):
            token, logits = host.decode(runner, token, batch)
            tokens.append(token.tolist())
            seen.append(logits)
    return tokens, seen


def verify(runner: Any, backend: Any, prompts: list[list[int]], drafts: list[int]) -> Any:
    """The logits [drafts, vocabulary] of drafts that are verified in one pass behind the prompt."""
    from bench.cpu import host

    host.clear(runner)
    with host.using(runner, backend):
        _, _, batch = host.prefill(runner, prompts)
        return host.verification(runner, batch, drafts)()


def main() -> None:
    import torch
    from tokenizers import Tokenizer

    from bench.cpu import host

    torch.set_num_threads(1)
    model = Path(sys.argv[1])
    runner = host.load_runner(model, tokens=4096)
    prompts = [Tokenizer.from_file(str(model / "tokenizer.json")).encode(prompt).ids for prompt in PROMPTS]
    stock, ours = runner.attn_backend, host.paste_backend(runner)
    exact = ours.exact
    result: dict[str, Any] = {
        "armed": sorted({part.kind for part in exact.parts}) if exact else [],
        "runs": [],
        "verified": [],
    }
    for batch in (*([prompt] for prompt in prompts), prompts):
        wanted, logits = generate(runner, stock, batch)
        found, others = generate(runner, ours, batch)
        equal = all(torch.equal(one, other) for one, other in zip(logits, others, strict=True))
        result["runs"].append({"torch_native": wanted, "paste_cpu": found, "logits_equal": equal})
        if len(batch) == 1:
            drafts = [token for (token,) in found[:-1]]
            result["verified"].append(torch.equal(verify(runner, ours, batch, drafts), torch.cat(others[1:])))
    print(json.dumps(result))


if __name__ == "__main__":
    os.environ |= {"SGLANG_USE_CPU_ENGINE": "1", "HF_HUB_OFFLINE": "1"}
    main()
