"""One answer of one server: how long its decoding took, and in how many steps."""

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import msgspec

from bench.decode.plugin import HINTS, Given
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

    @property
    def speed(self) -> float:
        """Tokens per second."""
        return (self.tokens - 1) / self.seconds


def play(
    server: Server,
    side: str,
    what: str,
    prompt: Sequence[int],
    answer: Sequence[int],
    given: Given | None = None,
) -> Played:
    """Let the server give a scripted answer. Raises SystemExit where it gives another."""
    custom: dict[str, Any] = {FORCED_IDS: list(answer)}
    if given is not None:
        custom[HINTS] = msgspec.json.encode(given).decode()
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


def warm(server: Server, answers: Sequence[Sequence[int]]) -> None:
    """Let the server give answers that it has given before, several at a time."""

    def ask(answer: Sequence[int]) -> None:
        params = {"temperature": 0, "max_new_tokens": len(answer), "custom_params": {FORCED_IDS: list(answer)}}
        body = {"input_ids": [1], "sampling_params": {**params, "ignore_eos": True}}
        httpx.post(f"{server.url}/generate", json=body, timeout=600).raise_for_status()

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(ask, answers))
