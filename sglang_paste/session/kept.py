"""Prompts that were tokenised before, found again by their text. Bounded in bytes; the longest unused go first."""

import threading
from array import array
from collections import OrderedDict, defaultdict
from collections.abc import Hashable, Sequence

from sglang_paste.session.marks import Marks

CANDIDATES = 8
MAX_ANSWERS = 8

# Beginnings are this many bytes apart, later this part of their size.
_STEP, _PART = 16, 64
_BLOCK = 65_536
# What the objects around a prompt's text and tokens take, by their counts.
_PROMPT_BYTES, _TOKEN_BYTES, _MARK_BYTES, _KEY_BYTES = 1_024, 8, 24, 96


class Kept:
    """A prompt: its text in UTF-8, its tokens, the cuts of both, and the tokens of the answers it got."""

    def __init__(self, scope: Hashable, text: bytes, tokens: "array[int]", marks: Marks) -> None:
        self.scope = scope
        self.text = text
        self.tokens = tokens
        self.marks = marks
        self.answers: list[array[int]] = []
        self.pending = 0
        self.keys: Sequence[int] = ()

    @property
    def size(self) -> int:
        """Bytes."""
        tokens = len(self.tokens) + sum(map(len, self.answers))
        counts = _TOKEN_BYTES * tokens + _MARK_BYTES * len(self.marks) + _KEY_BYTES * len(self.keys)
        return _PROMPT_BYTES + len(self.text) + counts


class KeptPrompts:
    """The prompts that are kept. A prompt is found by the digests of its beginnings, and then compared byte by byte, so
    that digests that happen to be equal cost time only. Whoever uses them holds the lock."""

    def __init__(self, capacity: int) -> None:
        self.lock = threading.RLock()
        self._capacity = capacity
        self._order: OrderedDict[Kept, None] = OrderedDict()
        self._index: defaultdict[int, list[Kept]] = defaultdict(list)
        self._size = 0

    def __len__(self) -> int:
        return len(self._order)

    @property
    def size(self) -> int:
        """Bytes."""
        return self._size

    def kept(self) -> list[Kept]:
        """All of them, the longest unused first."""
        return list(self._order)

    def find(self, scope: Hashable, text: bytes, keys: Sequence[int]) -> tuple[Kept, int] | None:
        """The prompt of the scope that shares most with `text`, and how many bytes that is."""
        for key in reversed(keys):
            found = [(kept, shared(kept.text, text)) for kept in self._index.get(key, ()) if kept.scope == scope]
            if found:
                best = max(found, key=lambda item: item[1])
                self._order.move_to_end(best[0])
                return best
        return None

    def add(self, kept: Kept, keys: Sequence[int]) -> None:
        """Keep a prompt whose beginnings have these keys, at the cost of those that were unused for longest."""
        kept.keys = keys
        if kept.size > self._capacity:
            return
        self._order[kept] = None
        self._size += kept.size
        for key in keys:
            places = self._index[key]
            places.append(kept)
            if len(places) > CANDIDATES:
                del places[0]
        self._shrink()

    def answered(self, kept: Kept | None, size: int, answer: Sequence[int]) -> None:
        """The model read `size` tokens of a prompt and answered with these; none where nothing came of it."""
        with self.lock:
            if kept is None or kept not in self._order:
                return
            kept.pending -= 1
            if answer and size == len(kept.tokens):
                before = kept.size
                kept.answers = [*kept.answers, array("q", answer)][-MAX_ANSWERS:]
                self._size += kept.size - before
                self._shrink()

    def take(self, kept: Kept, answer: "array[int] | None") -> None:
        """A longer prompt takes the place of this one, with one of its answers. It goes once it has no others."""
        if kept not in self._order:
            return
        before = kept.size
        kept.answers = [other for other in kept.answers if other is not answer]
        self._size += kept.size - before
        if not kept.answers and kept.pending <= 0:
            self._remove(kept)

    def _shrink(self) -> None:
        while self._size > self._capacity and self._order:
            self._remove(next(iter(self._order)))

    def _remove(self, kept: Kept) -> None:
        del self._order[kept]
        self._size -= kept.size
        for key in kept.keys:
            places = [other for other in self._index[key] if other is not kept]
            if places:
                self._index[key] = places
            else:
                del self._index[key]


def keys_of(scope: Hashable, text: bytes) -> list[int]:
    """Digests of a text's beginnings, ever further apart."""
    keys: list[int] = []
    key, at, step = hash(scope), 0, _STEP
    while at + step <= len(text):
        key = hash((key, text[at : at + step]))
        keys.append(key)
        at += step
        step = max(_STEP, at // _PART)
    return keys


def shared(one: bytes, other: bytes) -> int:
    """How many bytes two texts have in common at their beginning."""
    size = min(len(one), len(other))
    at = 0
    while at < size and one[at : at + _BLOCK] == other[at : at + _BLOCK]:
        at += _BLOCK
    if at >= size:
        return size
    low, high = 0, min(_BLOCK, size - at)
    while low < high:
        middle = (low + high + 1) // 2
        if one[at + low : at + middle] == other[at + low : at + middle]:
            low = middle
        else:
            high = middle - 1
    return at + low
