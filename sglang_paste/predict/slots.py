"""What is known of a value that could be an argument, as numbered slots of a weight table.

An argument's table holds one block for the value itself, one for each way it is found by, one slot for each constant,
and one block for `none of these`.
"""

import re
from bisect import bisect
from collections.abc import Sequence
from zlib import crc32

from sglang_paste.predict.state import LAST, SAID, TASK, USER, State

VALUE, WAY, ODDS, NONE = 256, 64, 8, 64
_LAST_TOOLS = 24
MAX_LOOKED_CHARS = 400
MAX_LOOKS = 4096
_BUCKETS = (0, 1, 2, 3, 4, 4, 5, 5, 5, 6, 6, 6, 6, 6)
_PARTS = re.compile(r"[A-Z]?[a-z]{2,}|[A-Z]{3,}")
_CALLED = re.compile(r"\(.*")
RELATED = 224
RANK = tuple(1 + _bucket for _bucket in (*_BUCKETS, 7))
FRESH = tuple(9 + _bucket for _bucket in (*_BUCKETS, 7))
END = (19, 20, 21, 22)
_ODDS = (0.2, 0.7, 1.2, 1.9, 2.8, 4.0, 6.0)


def bucket(rank: int) -> int:
    """0, 1, 2, 3, 4-5, 6-8, 9-13, more: 0 to 7."""
    return _BUCKETS[rank] if rank < 14 else 7


def odds_bucket(odds: float) -> int:
    """0 to 7 for a log-probability, 0 the surest."""
    return bisect(_ODDS, -odds)


def tag(text: str, size: int) -> int:
    """A small stable number for a text."""
    return crc32(text.encode("utf-8", "surrogatepass")) % size


class Look:
    """What a text looks like, whatever the moment."""

    __slots__ = ("end", "parts", "slots")

    def __init__(self, text: str) -> None:
        self.slots = (0, 20 + min(len(text).bit_length(), 9), 88 + shape(text))
        self.end = tail(text) if len(text) <= MAX_LOOKED_CHARS else ""
        self.parts = frozenset([part.lower() for part in _PARTS.findall(self.end)])


class Looks:
    """Looks of a session's texts, each made once; bounded."""

    def __init__(self) -> None:
        self._looks: dict[str, Look] = {}

    def of(self, text: str) -> Look:
        """The look of a text."""
        look = self._looks.get(text)
        if look is None:
            if len(self._looks) >= MAX_LOOKS:
                self._looks.clear()
            look = self._looks[text] = Look(text)
        return look


class Scene:
    """What all arguments share at this moment: the texts last seen, and the slots of values looked at before."""

    __slots__ = ("calls", "known", "last", "last_tool", "looks", "said", "seen", "task", "user", "words")

    def __init__(self, state: State, looks: Looks | None = None) -> None:
        last = state.calls[-1] if state.calls else None
        mark = f"{last.tool}/{last.outcome}/{state.role == USER}" if last else state.role
        self.last_tool = tag(mark, _LAST_TOOLS)
        self.calls = len(state.calls)
        self.said = state.texts.get(SAID, "")[-3000:]
        self.user = state.texts.get(USER, "")[:3000]
        self.task = state.texts.get(TASK, "")[:5000]
        self.last = state.texts.get(LAST, "")[:4000]
        self.words = (state.words(TASK), state.words(SAID))
        self.seen = state.seen
        self.looks = looks or Looks()
        self.known: dict[str, tuple[int, list[int]]] = {}

    def of_text(self, text: str) -> tuple[int, list[int]]:
        """Where the value is named (as three bits), and the slots that do not depend on the argument."""
        found = self.known.get(text)
        if found is None:
            found = self.known[text] = self._of_text(text)
        return found

    def _of_text(self, text: str) -> tuple[int, list[int]]:
        look = self.looks.of(text)
        if len(text) > MAX_LOOKED_CHARS:
            return 0, [1, *look.slots]
        end, parts = look.end, look.parts
        said, last, task = self.said, self.last, self.task
        named = (text in said) + 2 * (text in self.user) + 4 * (text in task)
        ending = (end in said) + 2 * (end in last) + 4 * (end in task) if end else 0
        times = self.seen.get(text, 0)
        slots = [
            *look.slots,
            1 + named,
            48 + ending,
            136 + 8 * named + ending,
            56 + (times if times < 5 else 5),
        ]
        if ending & 2:
            slots.append(200 + self.last_tool)
        if parts:
            asked = len(parts & self.words[0])
            slots.append(128 + (asked if asked < 3 else 3))
            slots.append(232 + min(len(parts & self.words[1]), 3))
            slots.append(236 + min(3 * asked // len(parts), 3))
        return named, slots


def tail(text: str) -> str:
    """What a path or a dotted name ends in, without brackets and extension."""
    base = _CALLED.sub("", text).rpartition("/")[2]
    head, _, end = base.rpartition(".")
    if "/" in text:
        return head or end
    return end


class Context:
    """What all values of one argument share at this moment."""

    __slots__ = ("last_text", "scene", "used")

    def __init__(self, state: State, scene: Scene, tool: str, name: str) -> None:
        self.scene = scene
        self.used = state.used.get((tool, name), {})
        last = state.calls[-1] if state.calls else None
        self.last_text = last.texts.get(name) if last is not None and last.tool == tool else None


def of_list(size: int, age: int, scene: Scene) -> tuple[int, ...]:
    """The slots that all values of a way's list share: its `size`, and the `age` in turns of what holds it."""
    return (0, 23 + (age if age < 5 else 5), 29 + bucket(size - 1), 40 + scene.last_tool)


def of_value(text: str, context: Context) -> list[int]:
    """The slots of the value itself: how often and how lately used, where it is named, its look."""
    scene = context.scene
    named, fixed = scene.of_text(text)
    uses = context.used.get(text)
    if not uses and context.last_text != text:
        return fixed
    slots = fixed.copy()
    if uses:
        slots.append(9 + min(len(uses), 3))
        slots.append(13 + min(scene.calls - uses[-1], 5))
        slots.append(64 + scene.last_tool)
        slots.append(40 + named)
    if context.last_text == text:
        slots.append(19)
    return slots


def of_none(size: int, context: Context) -> list[int]:
    """The slots of `none of these`."""
    used = len(context.used)
    return [0, 1 + bucket(size), 10 + context.scene.last_tool, 36 + (used > 0), 38 + min(used, 6)]


def related(text: str, earlier: Sequence[str], state: State) -> int:
    """The slot of how a value stands to the arguments chosen before it: the same, of the same object, or neither."""
    if text in earlier:
        return RELATED + 1
    records = state.records.get(text)
    if records:
        for other in earlier:
            if not records.isdisjoint(state.records.get(other, ())):
                return RELATED + 2
    return RELATED


def shape(text: str) -> int:
    """A number under 40 for the look of a text: spaces, signs, digits, capitals."""
    spaces = min(text.count(" "), 4)
    look = ("/" in text) + 2 * any(map(str.isdigit, text)) if spaces < 1 else 2 * text[:1].isupper()
    return spaces * 8 + look + 4 * ("." in text)
