"""Candidates of one argument and of one call, scored."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from sglang_paste.predict import slots
from sglang_paste.predict.state import State
from sglang_paste.predict.ways import MAX_HEAD, MAX_TAIL, Way, forward

Floats = npt.NDArray[np.float32]
VALUE_BLOCK = 2 * slots.WIDTH
NONE_BLOCK = slots.WIDTH
Value = tuple[str, str]
"""A candidate's text and its form."""


def listed(way: Way, state: State) -> list[str]:
    """The values of a way, in order."""
    if way.form == "a":
        found = state.values(way.key)
        return list(forward(found[0])) if found else []
    return state.values(way.key)


def gather(ways: list[Way], constants: list[Value], state: State, context: slots.Context) -> dict[Value, list[int]]:
    """All candidates of an argument, and the slots of each in the argument's weight table."""
    found: dict[Value, list[int]] = {}
    counts: dict[Value, int] = {}
    used = context.used
    for number, way in enumerate(ways):
        values = listed(way, state)
        if not values:
            continue
        form = "j" if way.form == "a" else way.form
        base = VALUE_BLOCK + slots.WIDTH * number
        age = state.turn - state.since.get(way.source, state.turn)
        size = len(values)
        fresh = 0
        for rank in _picked(size):
            text = values[rank]
            known = text in used
            value = (text, form)
            marks = found.setdefault(value, [])
            counts[value] = counts.get(value, 0) + 1
            marks.extend(base + slot for slot in slots.of_way(rank, -1 if known else fresh, size, age, context))
            fresh += not known
    base = VALUE_BLOCK + slots.WIDTH * len(ways)
    for rank, value in enumerate(constants):
        found.setdefault(value, []).append(base + rank)
        counts.setdefault(value, 0)
    for value, marks in found.items():
        marks.extend(slots.of_value(value[0], context, counts[value]))
    return found


def none_slots(size: int, state: State, context: slots.Context) -> list[int]:
    """The slots of `none of these`."""
    return [
        0,
        1 + slots.bucket(size),
        10 + context.last_tool,
        36 + (len(context.used) > 0),
        38 + min(len(context.used), 6),
    ]


def width(ways: int, constants: int) -> int:
    """The size of an argument's weight table without the `none` block."""
    return VALUE_BLOCK + slots.WIDTH * ways + constants


def _picked(size: int) -> Iterator[int]:
    if size <= MAX_HEAD + MAX_TAIL:
        yield from range(size)
    else:
        yield from range(MAX_HEAD)
        yield from range(size - MAX_TAIL, size)
