"""Long sessions made of recorded ones, and more patterns made of mined ones."""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import numpy as np

from sglang_paste.mine.messages import steps
from sglang_paste.mine.records import Session
from sglang_paste.predict import words
from sglang_paste.predict.patterns import Argument, Block, Contexts, Patterns, Shape

CHARS_PER_TOKEN = 4
_RARELY = 4.0

Message = dict[str, Any]


def size(patterns: Patterns) -> int:
    """How many patterns there are: rules that offer a value for an argument of a tool, copied or constant."""
    return sum(len(argument.ways) + len(argument.constants) for argument in patterns.arguments)


def grown(patterns: Patterns, least: int) -> Patterns:
    """The patterns with copies of all tools under other names, rarely called, until there are `least`. A copy may be
    called wherever the original may."""
    copies = -(-least // max(size(patterns), 1))
    if copies < 2:
        return patterns
    bias = patterns.contexts.features.index(words.crc("1"))
    together = {
        _name(tool, copy): sorted(_name(other, number) for other in others for number in range(copies))
        for tool, others in patterns.together.items()
        for copy in range(copies)
    }
    return msgspec.structs.replace(
        patterns,
        shapes=[Shape(_name(s.tool, copy), s.names, s.p50, s.p90) for copy in range(copies) for s in patterns.shapes],
        arguments=[_renamed(argument, copy) for copy in range(copies) for argument in patterns.arguments],
        contexts=Contexts(patterns.contexts.features, _tiled(patterns.contexts.shapes, copies, bias)),
        together=together,
    )


def long_sessions(sessions: Iterable[Session], tokens: int) -> Iterator[tuple[str, list[list[Message]]]]:
    """For each source a session of about `tokens` tokens: one recorded session after the other, in steps (the messages
    of one turn). A source that is too short begins again."""
    of_source: dict[str, list[list[Message]]] = {}
    chars: dict[str, int] = {}
    for session in sessions:
        if chars.get(session.source, 0) < tokens * CHARS_PER_TOKEN:
            found = [step.messages for step in steps(session)]
            of_source.setdefault(session.source, []).extend(found)
            chars[session.source] = chars.get(session.source, 0) + sum(map(length, found))
    for source, found in sorted(of_source.items()):
        times = -(-tokens * CHARS_PER_TOKEN // max(chars[source], 1))
        yield source, found * times


def length(messages: Iterable[Message]) -> int:
    """The characters of what is said and called."""
    return sum(
        len(message.get("content") or "")
        + sum(len(call["function"]["arguments"]) for call in message.get("tool_calls", ()))
        for message in messages
    )


def _name(tool: str, copy: int) -> str:
    return f"{tool}~{copy}" if copy else tool


def _renamed(argument: Argument, copy: int) -> Argument:
    return msgspec.structs.replace(argument, tool=_name(argument.tool, copy))


def _tiled(block: Block, copies: int, bias: int) -> Block:
    rows = np.frombuffer(block.rows, "<i4")
    weights = np.tile(np.frombuffer(block.weights, "<f2").reshape(len(rows), block.columns), copies)
    weights[rows == bias, block.columns :] -= np.float16(_RARELY)
    return Block(block.columns * copies, block.rows, weights.tobytes())
