"""What is known of a value that could be an argument, as numbered slots of a weight table.

An argument's table holds one block for the value itself, one for each way it is found by, one slot for each constant,
and one block for `none of these`.
"""

from array import array
from collections.abc import Iterable, Sequence
from itertools import chain
from zlib import crc32

import numpy as np
import numpy.typing as npt

from sglang_paste.predict.memo import Memo
from sglang_paste.predict.parts import parts_in
from sglang_paste.predict.state import LAST, NOW, SAID, TASK, USER, State, stands

VALUE, WAY, ODDS, NONE = 256, 64, 8, 64
_LAST_TOOLS = 24
MAX_LOOKED_CHARS = 400
MAX_LOOKS = 8192
MAX_SAID_CHARS, MAX_LAST_CHARS = 3000, 3000
_SAYING = 240
_BUCKETS = (0, 1, 2, 3, 4, 4, 5, 5, 5, 6, 6, 6, 6, 6)
RELATED = 224
RANK = tuple(1 + _bucket for _bucket in (*_BUCKETS, 7))
FRESH = tuple(9 + _bucket for _bucket in (*_BUCKETS, 7))
END = (19, 20, 21, 22)
_ODDS = (0.2, 0.7, 1.2, 1.9, 2.8, 4.0, 6.0)


def bucket(rank: int) -> int:
    """0, 1, 2, 3, 4-5, 6-8, 9-13, more: 0 to 7."""
    return _BUCKETS[rank] if rank < 14 else 7


def odds_buckets(odds: npt.NDArray[np.float32]) -> npt.NDArray[np.intp]:
    """0 to 7 for log-probabilities, 0 the surest."""
    return np.searchsorted(_ODDS, -odds, side="right")


def tag(text: str, size: int) -> int:
    """A small stable number for a text."""
    return crc32(text.encode("utf-8", "surrogatepass")) % size


Traits = tuple[int, int, int, int, int]
"""What is known of a text whatever the argument: where it and its end are named (8 * 3 bits + 3 bits), its look (40 *
length + shape), how often it was seen, and how many of its parts are words of the task and of what was said. The last
of each range stands for a text that is too long to be looked at, or has no parts. The fifth says what of it stands in
the message under way: text, end, parts; UNSAID where there is none."""
UNNAMED, UNSEEN, NO_PARTS, UNSAID = 64, 6, 64, 12


class Look:
    """What a text looks like, whatever the moment."""

    __slots__ = ("end", "look", "parts")

    def __init__(self, text: str) -> None:
        self.look = 40 * min(len(text).bit_length(), 9) + shape(text)
        self.end = tail(text)
        self.parts = frozenset(parts_in(self.end))


looks = Memo(Look, MAX_LOOKS)


class Scene:
    """What all arguments share at this moment: the texts last seen, and the traits of values looked at before."""

    __slots__ = ("_asked", "_known", "_last", "_said", "_saying", "_state", "_told", "_uttered", "calls", "last_tool")

    def __init__(self, state: State) -> None:
        last = state.calls[-1] if state.calls else None
        mark = f"{last.tool}/{last.outcome}/{state.role == USER}" if last else state.role
        self.last_tool = tag(mark, _LAST_TOOLS)
        self.calls = state.count
        self._state = state
        self._known: dict[str, Traits] = {}
        self._said = state.texts.get(SAID, "")[-MAX_SAID_CHARS:]
        self._last = state.texts.get(LAST, "")[:MAX_LAST_CHARS]
        self._saying = state.texts.get(NOW, "")[-MAX_SAID_CHARS:]
        self._asked, self._told, self._uttered = state.words(TASK), state.words(SAID), state.words(NOW)

    @property
    def is_saying(self) -> bool:
        """Whether some of the message under way is known."""
        return self._saying != ""

    def traits(self, text: str) -> Traits:
        """What is known of a text."""
        found = self._known.get(text)
        if found is None:
            found = self._known[text] = self._traits(text)
        return found

    def _traits(self, text: str) -> Traits:
        if len(text) > MAX_LOOKED_CHARS:
            return UNNAMED, 40 * 9 + shape(text), UNSEEN, NO_PARTS, UNSAID
        known = looks[text]
        end, parts = known.end, known.parts
        named = self._state.asked(text, end)
        is_named, is_ended = stands(text, end, self._said)
        named += 8 * is_named + is_ended
        if end and end in self._last:
            named += 2
        times = self._state.seen.get(text, 0)
        shared = NO_PARTS
        if parts:
            asked, told = len(parts & self._asked), len(parts & self._told)
            shared = 16 * min(asked, 3) + 4 * min(told, 3) + 3 * asked // len(parts)
        uttered = UNSAID
        if self._saying:
            told = len(parts & self._uttered)
            is_named, is_ended = stands(text, end, self._saying)
            uttered = 6 * is_named + 3 * is_ended + (told if told < 2 else 2)
        return named, known.look, times if times < 5 else 5, shared, uttered


def tail(text: str) -> str:
    """What a path or a dotted name ends in, without brackets and extension; it stands in the text."""
    base = text.partition("(")[0].rpartition("/")[2]
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
    named, face, seen, parts, uttered = scene.traits(text)
    slots = [0, 20 + face // 40, 88 + face % 40]
    slots += [1] if named == UNNAMED else [1 + named // 8, 48 + named % 8, 136 + named]
    if named != UNNAMED and named & 2:
        slots.append(200 + scene.last_tool)
    if seen != UNSEEN:
        slots.append(56 + seen)
    if parts != NO_PARTS:
        slots += [128 + parts // 16, 232 + parts // 4 % 4, 236 + parts % 4]
    if uttered != UNSAID:
        slots.append(_SAYING + uttered)
    used = context.used.get(text)
    if used is not None:
        slots += of_use(used, named, scene)
    if context.last_text == text:
        slots.append(19)
    return slots


def of_use(used: tuple[int, int], named: int, scene: Scene) -> tuple[int, int, int, int]:
    """The slots of a value that the argument had before."""
    times, call = used
    since = min(scene.calls - call, 5)
    return 9 + min(times, 3), 13 + since, 64 + scene.last_tool, 40 + (0 if named == UNNAMED else named // 8)


class Folded:
    """The weights of `of_value` with those of a trait summed beforehand."""

    __slots__ = ("_last", "_look", "_named", "_parts", "_seen", "_uttered", "_weights")

    def __init__(self, weights: npt.NDArray[np.float32]) -> None:
        real = weights[:VALUE].astype(np.float64)
        named = real[1:9, None] + real[48:56] + real[136:200].reshape(8, 8)
        self._named = array("f", [*named.ravel(), real[1]])
        self._look = array("f", (real[0] + real[20:30, None] + real[88:128]).ravel())
        self._seen = array("f", [*real[56:62], 0.0])
        parts = real[128:132, None, None] + real[232:236, None] + real[236:240]
        self._parts = array("f", [*parts.ravel(), 0.0])
        self._last = array("f", real[200:224])
        self._uttered = array("f", [*real[_SAYING : _SAYING + UNSAID], 0.0])
        self._weights = array("f", real)

    def score(self, text: str, context: Context) -> float:
        """The sum of the weights of `of_value`."""
        scene = context.scene
        named, face, seen, parts, uttered = scene.traits(text)
        found: float = (
            self._named[named] + self._look[face] + self._seen[seen] + self._parts[parts] + self._uttered[uttered]
        )
        if named & 2:
            found += self._last[scene.last_tool]
        used = context.used.get(text)
        if used is not None:
            weights = self._weights
            found += sum([weights[slot] for slot in of_use(used, named, scene)])
        if text == context.last_text:
            found += self._weights[19]
        return found


def of_none(size: int, context: Context) -> list[int]:
    """The slots of `none of these`."""
    used = len(context.used)
    found = [0, 1 + bucket(size), 10 + context.scene.last_tool, 36 + (used > 0), 38 + min(used, 6)]
    return [*found, 45] if context.scene.is_saying else found


def related(texts: Iterable[str], earlier: Sequence[str], state: State) -> list[int]:
    """How each value stands to the arguments chosen before it: 1 the same, 2 of the same object, 0 neither; from
    `RELATED` on these are slots."""
    records = state.records
    near = set(chain.from_iterable([records.get(other, ()) for other in earlier]))
    if not near:
        return [int(text in earlier) for text in texts]
    return [1 if text in earlier else 0 if near.isdisjoint(records.get(text, ())) else 2 for text in texts]


def shape(text: str) -> int:
    """A number under 40 for the look of a text: spaces, signs, digits, capitals."""
    spaces = min(text.count(" "), 4)
    look = ("/" in text) + 2 * any(map(str.isdigit, text)) if spaces < 1 else 2 * text[:1].isupper()
    return spaces * 8 + look + 4 * ("." in text)
