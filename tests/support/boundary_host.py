"""Turns over SGLang's real detectors and a real tokenizer, with the API's own code beside them."""

import os
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bench.tool_formats import TOOLS, Format
from sglang_paste.boundary import FoundCall, Turn, TurnHead, Vocabulary
from sglang_paste.boundary.gate import Decode, Reader
from sglang_paste.calls import DEFAULT_TENANT, SessionId
from sglang_paste.events import EngineEvent, StopReason

os.environ.setdefault("SGLANG_USE_CPU_ENGINE", "1")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from sglang.srt.entrypoints.openai.protocol import Tool
    from sglang.srt.entrypoints.openai.serving_chat import OpenAIServingChat
    from tokenizers import Tokenizer

    from sglang_paste.patches.detector import ApiDetector, Reasoning, quiet

quiet()

MODEL = Path(__file__).parents[2] / ".cache" / "models" / "smollm2-135m" / "tokenizer.json"
REQUIRED = {"read": ("path",), "write_file": ("path",), "z": ("path",)}
HOST_TOOLS = [Tool.model_validate(tool) for tool in TOOLS]


class Kept:
    """A sink that keeps what it gets."""

    def __init__(self) -> None:
        self.events: list[EngineEvent] = []

    def send(self, events: Sequence[EngineEvent]) -> None:
        self.events.extend(events)

    def of(self, kind: type[Any]) -> list[Any]:
        """The events of a kind."""
        return [event for event in self.events if isinstance(event, kind)]


@cache
def tokenizer() -> Tokenizer:
    """SmolLM2's tokenizer, which needs several tokens for most characters outside ASCII."""
    return Tokenizer.from_file(str(MODEL))


@cache
def own_tokenizer() -> Any:
    """The same as SGLang loads it, with its chat template."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(MODEL.parent)


def decode(tokens: Sequence[int]) -> str:
    """All of the text, special tokens included."""
    return str(tokenizer().decode(list(tokens), skip_special_tokens=False))


def encode(text: str) -> list[int]:
    """Tokens of an output."""
    return list(tokenizer().encode(text, add_special_tokens=False).ids)


@cache
def vocabulary(style: str) -> Vocabulary:
    """Learned once for all tests."""
    return Vocabulary(decode, style)


def detector(form: Format, reasoning: Reasoning | None = None) -> ApiDetector:
    """What a request with TOOLS gets."""
    return ApiDetector(HOST_TOOLS, form.parser, form.choice, None, reasoning)


def turn(form: Format, sink: Kept, *, read: Decode = decode, reasoning: Reasoning | None = None) -> Turn:
    """A started turn."""
    host = detector(form, reasoning)
    head = TurnHead(tenant=DEFAULT_TENANT, session=SessionId("s"), request="r")
    started = Turn(head, host, vocabulary(host.shape.style), Reader(read), sink, required=REQUIRED)
    started.start(1, tuple(REQUIRED))
    return started


def play(turn: Turn, text: str, sizes: Sequence[int], reason: StopReason = "stop") -> None:
    """Commit a text in runs of the sizes, which repeat, and end the turn."""
    tokens, at, number = encode(text), 0, 0
    while at < len(tokens):
        size = sizes[number % len(sizes)]
        turn.commit(tokens[at : at + size])
        at, number = at + size, number + 1
    turn.end(reason)


def api_calls(form: Format, text: str) -> list[FoundCall]:
    """What the chat API returns for a whole output: SGLang's own code."""
    serving = SimpleNamespace(
        tool_call_parser=form.parser,
        tokenizer_manager=SimpleNamespace(tokenizer=None),
        _process_tool_call_id=lambda call, count: "id",
    )
    done = OpenAIServingChat._process_tool_calls(serving, text, HOST_TOOLS, {"type": "stop"}, form.choice)
    return [FoundCall(call.function.name, call.function.arguments) for call in done.tool_calls or ()]
