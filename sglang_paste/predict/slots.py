"""What is known of a value that could be an argument, as numbered slots of a weight table."""

from collections.abc import Sequence
from zlib import crc32

from sglang_paste.predict.state import SAID, TASK, USER, State

WIDTH = 64
_BUCKETS = (0, 1, 2, 3, 4, 4, 5, 5, 5, 6, 6, 6, 6, 6)


def bucket(rank: int) -> int:
    """0, 1, 2, 3, 4-5, 6-8, 9-13, more: 0 to 7."""
    return _BUCKETS[rank] if rank < 14 else 7


def tag(text: str, size: int) -> int:
    """A small stable number for a text."""
    return crc32(text.encode("utf-8", "surrogatepass")) % size


class Context:
    """What all values of one argument share at this moment."""

    __slots__ = ("age", "calls", "last_texts", "last_tool", "said", "task", "used", "user")

    def __init__(self, state: State, tool: str, name: str) -> None:
        self.used = state.used.get((tool, name), {})
        self.calls = len(state.calls)
        last = state.calls[-1] if state.calls else None
        turned = state.role
        self.last_tool = tag(f"{last.tool}/{last.outcome}/{turned == USER}" if last else turned, 24)
        self.last_texts = last.texts.get(name) if last and last.tool == tool else None
        self.said = state.texts.get(SAID, "")
        self.user = state.texts.get(USER, "")
        self.task = state.texts.get(TASK, "")


def of_way(rank: int, fresh: int, size: int, age: int, context: Context) -> Sequence[int]:
    """The slots of a value's place in one way's list: `rank` from the start, `fresh` among those not used before
    (negative where used), `size` of the list, `age` in turns of what holds it."""
    slots = [0, 1 + bucket(rank), 19 + min(size - 1 - rank, 3), 23 + min(age, 5), 40 + context.last_tool]
    if fresh >= 0:
        slots.append(9 + bucket(fresh))
    slots.append(29 + (bucket(size - 1) if size else 0))
    return slots


def of_value(text: str, context: Context, ways: int) -> list[int]:
    """The slots of the value itself: how often and how lately used, where it is named, its shape."""
    uses = context.used.get(text)
    named = (text in context.said) + 2 * (text in context.user) + 4 * (text in context.task)
    slots = [0, 1 + named, 30 + min(ways, 7)]
    if uses:
        slots.append(9 + min(len(uses), 3))
        slots.append(13 + min(context.calls - uses[-1], 5))
        slots.append(WIDTH + context.last_tool)
        slots.append(40 + named)
    if context.last_texts == text:
        slots.append(19)
    slots.append(WIDTH + 24 + shape(text))
    slots.append(20 + min(len(text).bit_length(), 9))
    return slots


def shape(text: str) -> int:
    """A number under 40 for the look of a text: spaces, signs, digits, capitals."""
    spaces = min(text.count(" "), 4)
    look = ("/" in text) + 2 * any(map(str.isdigit, text)) if spaces < 1 else 2 * (text[:1].isupper())
    return spaces * 8 + look + 4 * ("." in text)
