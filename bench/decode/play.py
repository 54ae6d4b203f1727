"""One answer of one server: how long its decoding took, and in how many steps."""

import json
import time
from collections.abc import Sequence
from typing import Any

import httpx
import msgspec

from bench.decode.plugin import PREDICTED, SEPARATOR
from bench.decode.server import Server
from bench.forced import FORCED_IDS


class Played(msgspec.Struct, frozen=True):
    """`seconds` are from the first token to the last; `steps` are the engine's, that of the prompt not among them."""

    side: str
    what: str
    tokens: int
    steps: int
    seconds: float

    @property
    def accept_length(self) -> float:
        """Tokens per step."""
        return (self.tokens - 1) / max(self.steps, 1)


def play(
    server: Server,
    side: str,
    what: str,
    prompt: Sequence[int],
    answer: Sequence[int],
    predicted: Sequence[Sequence[int]] = (),
) -> Played:
    """Let the server give a scripted answer. Raises SystemExit where it gives another."""
    custom: dict[str, Any] = {FORCED_IDS: list(answer)}
    if predicted:
        custom[PREDICTED] = [token for text in predicted for token in (*text, SEPARATOR)][:-1]
    params = {"temperature": 0, "max_new_tokens": len(answer), "ignore_eos": True, "custom_params": custom}
    body = {"input_ids": list(prompt), "sampling_params": params, "stream": True}
    first = last = 0.0
    final: dict[str, Any] = {}
    with httpx.stream("POST", f"{server.url}/generate", json=body, timeout=600) as response:
        for line in response.iter_lines():
            if line.startswith("data: {"):
                last = time.perf_counter()
                first = first or last
                final = json.loads(line[6:])
    if final.get("output_ids") != list(answer):
        raise SystemExit(f"{side} did not give the answer it was to give ({what}): {str(final)[:300]}")
    steps = final["meta_info"].get("spec_verify_ct") or len(answer) - 1
    return Played(side, what, len(answer), steps, last - first)
