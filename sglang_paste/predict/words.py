"""The context as sparse features: what was called and how it came out, and the words last said."""

import re
from collections.abc import Iterator
from itertools import pairwise

from sglang_paste.predict.state import LAST, SAID, TASK, USER, State

_WORD = re.compile(r"[A-Za-z][a-z]+|[A-Z]{2,}|[?]")
_HEADS = {TASK: 60, USER: 60, SAID: 30, LAST: 30}
_TAILS = {TASK: 0, USER: 0, SAID: 40, LAST: 20}


def of_text(source: str, text: str) -> list[str]:
    """The words of a text that count: its first and last ones, and the pairs among them."""
    head, tail = _HEADS[source], _TAILS[source]
    words = [word.lower() for word in _WORD.findall(text[: head * 12])[:head]]
    ending = [word.lower() for word in _WORD.findall(text[-tail * 10 :])[-tail:]] if tail else []
    mark = source[0]
    found = dict.fromkeys(f"{mark}:{word}" for word in words)
    found.update(dict.fromkeys(f"{mark}.:{word}" for word in ending))
    if source in (USER, SAID):
        found.update(dict.fromkeys(f"{mark}:{a} {b}" for a, b in pairwise(words)))
        found.update(dict.fromkeys(f"{mark}.:{a} {b}" for a, b in pairwise(ending)))
    return list(found)


def of_calls(state: State) -> Iterator[str]:
    """The recent calls: tools, outcomes, whether the person spoke in between, how many there were."""
    steps = [f"{call.tool}/{call.outcome}" for call in state.calls[-4:]]
    role = state.role
    yield "1"
    yield f"role {role}"
    for length in (1, 2, 3, 4):
        if len(steps) >= length:
            yield f"t{length} {' '.join(steps[-length:])} {role if length < 3 else ''}"
    if not steps:
        yield f"t0 {role} {min(state.turn, 6)}"
    yield f"n {min(len(state.calls).bit_length(), 7)} {steps[-1] if steps else ''}"
    if len(steps) > 1:
        run = 0
        for call in reversed(state.calls):
            if call.tool != state.calls[-1].tool:
                break
            run += 1
        yield f"run {state.calls[-1].tool} {min(run, 9)}"
    for tool in {call.tool for call in state.calls}:
        yield f"seen {tool}"
