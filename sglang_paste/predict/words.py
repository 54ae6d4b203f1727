"""The context as sparse features: what was called and how it came out, and the words last said."""

from collections.abc import Iterator
from functools import lru_cache
from zlib import crc32

from sglang_paste.predict.parts import parts_in
from sglang_paste.predict.state import LAST, NOW, SAID, TASK, USER, State

SOURCES = (TASK, USER, SAID, LAST, NOW)
_HEADS = {TASK: 60, USER: 60, SAID: 30, LAST: 30, NOW: 30}
_TAILS = {TASK: 0, USER: 0, SAID: 40, LAST: 20, NOW: 40}
_COMMANDS = 12
_VALUES = {"t:": 0.1, "l:": 0.15, "l.": 0.15, "s:": 0.3, "s.": 0.3, "u:": 0.3, "n:": 0.3, "n.": 0.3}


def pieces(source: str, text: str) -> list[tuple[str, list[str]]]:
    """The words of a text that count, its first and its last ones, each with the mark of their features."""
    head, tail = _HEADS[source], _TAILS[source]
    found = [(f"{source[0]}:", _words(text[: head * 12])[:head])]
    if tail:
        found.append((f"{source[0]}.:", _words(text[-tail * 10 :])[-tail:]))
    return found


@lru_cache(64)
def of_text(source: str, text: str) -> tuple[str, ...]:
    """The features of a text."""
    return tuple(dict.fromkeys([mark + word for mark, words in pieces(source, text) for word in words]))


def _words(text: str) -> list[str]:
    found = parts_in(text)
    if "?" in text:
        found.append("?")
    return found


def of_calls(state: State) -> Iterator[str]:
    """The recent calls: tools, outcomes, commands, whether the person spoke in between, how many there were."""
    steps = [f"{call.tool}/{call.outcome}" for call in state.calls[-4:]]
    role = state.role
    yield "1"
    yield f"role {role}"
    for length in range(1, len(steps) + 1):
        yield f"t{length} {' '.join(steps[-length:])} {role if length < 3 else ''}"
    if not steps:
        yield f"t0 {role} {min(state.turn, 6)}"
    yield f"n {min(state.count.bit_length(), 7)} {steps[-1] if steps else ''}"
    commands = [call.verb for call in state.calls[-_COMMANDS:] if call.verb]
    if commands:
        last = state.calls[-1]
        yield f"c1 {commands[-1]}"
        yield f"c2 {' '.join(commands[-2:])}"
        if last.verb:
            yield f"c0 {last.verb}/{last.outcome}"
        yield from [f"ran {command}" for command in dict.fromkeys(commands)]
    if len(steps) > 1:
        run = 0
        for call in reversed(state.calls[-9:]):
            if call.tool != state.calls[-1].tool:
                break
            run += 1
        yield f"run {state.calls[-1].tool} {run}"


def of_tools(state: State) -> list[str]:
    """The tools that were called."""
    return [f"seen {tool}" for tool in state.tools]


def value(feature: str) -> float:
    """How much a feature weighs: calls count for one, words for less, since there are many."""
    return _VALUES.get(feature[:2], 1.0)


def crc(feature: str, start: int = 0) -> int:
    """The number a feature is kept under; `start` is that of what stands before it."""
    return crc32(feature.encode("utf-8", "replace"), start)
