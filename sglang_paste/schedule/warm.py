"""What is prefilled ahead of a session's return: in slices, one at a time, and only while nothing real waits."""

from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Generic, TypeVar

import msgspec

SLICE_TOKENS = 1024
# Who comes while a slice is under way waits for its end: it is to take no longer, whatever the engine can do.
SLICE_S = 0.1
LEAST_TOKENS = 32
# Left to the session's own request: a product of one row, or of very few, is often computed in another way.
LEFT_TOKENS = 16
MAX_PARKED = 32
PATIENCE_S = 60.0

T = TypeVar("T")


class Slice(msgspec.Struct, frozen=True):
    """The prompt's first `end` tokens are to be prefilled, as the request `rid`."""

    rid: str
    end: int
    given_at: float


class _Parked(msgspec.Struct, Generic[T]):
    item: T
    done: int  # tokens that are in the cache, as far as is known
    length: int
    expires_at: float


class WarmLine(Generic[T]):
    """The prompts to be warmed on one engine, first come, first served. `T` is what the caller keeps of one.

    Bounded in number, and in time without progress. A prompt whose slice was called off for real work keeps its place;
    one whose session came back is dropped. Slices have at most `slice_tokens`, and as many as the engine was seen to
    prefill in SLICE_S.
    """

    def __init__(self, slice_tokens: int = SLICE_TOKENS, limit: int = MAX_PARKED, patience: float = PATIENCE_S) -> None:
        self._slice_tokens = slice_tokens
        self._size = min(LEAST_TOKENS, slice_tokens)
        self._limit = limit
        self._patience = patience
        self._parked: OrderedDict[str, _Parked[T]] = OrderedDict()
        self._under_way: Slice | None = None
        self.prompts: Counter[str] = Counter()  # by outcome
        self.tokens = 0  # prefilled ahead

    def values(self) -> Mapping[tuple[str, str], int]:
        """What was counted, by name and label."""
        prompts = {("prompts", outcome): count for outcome, count in self.prompts.items()}
        return {**prompts, ("tokens", "ahead"): self.tokens}

    def __bool__(self) -> bool:
        return bool(self._parked) or self._under_way is not None

    @property
    def under_way(self) -> str | None:
        """The request whose slice the engine has now."""
        return self._under_way.rid if self._under_way else None

    def park(self, rid: str, item: T, start: int, length: int, now: float) -> None:
        """Take in a prompt of `length` tokens, of which the cache should have the first `start`; all but the last ones
        are prefilled. The oldest goes where there are too many."""
        if start < length - LEFT_TOKENS:
            self._parked[rid] = _Parked(item, start, length - LEFT_TOKENS, now + self._patience)
        while len(self._parked) > self._limit:
            self._end(next(each for each in self._parked if each != self.under_way), "pushed out")

    def drop(self, rid: str) -> bool:
        """Forget a prompt; False where the engine need not hear of it: it was parked, and no slice is under way."""
        known = rid in self._parked
        if known:
            self._end(rid, "overtaken")
        return not known or self.under_way == rid

    def next(self, now: float) -> tuple[Slice, T] | None:
        """The slice to give to an engine that has nothing else to prefill, and is under way from now on."""
        if self._under_way is not None and now - self._under_way.given_at < self._patience:
            return None
        for rid, parked in list(self._parked.items()):
            if parked.expires_at <= now:
                self._end(rid, "expired")
                continue
            self._under_way = Slice(rid, min(parked.done + self._size, parked.length), now)
            return self._under_way, parked.item
        return None

    def ended(self, rid: str, now: float, *, prefilled: bool) -> int:
        """The engine is done with the slice of `rid`; returns the tokens that it added to the cache."""
        current = self._under_way
        if current is None or current.rid != rid:
            return 0
        self._under_way = None
        parked = self._parked.get(rid)
        if parked is None or not prefilled:
            return 0
        added, parked.done, parked.expires_at = current.end - parked.done, current.end, now + self._patience
        self.tokens += added
        self._size = self._fitting(added, now - current.given_at)
        if parked.done >= parked.length:
            self._end(rid, "done")
        return added

    def _fitting(self, tokens: int, seconds: float) -> int:
        """The size of the next slice, after one of so many tokens took so long: at most four times that. The short end
        of a prompt says nothing."""
        if tokens < self._size and seconds <= SLICE_S:
            return self._size
        size = round(tokens * min(SLICE_S / max(seconds, 1e-6), 4.0))
        return min(max(size, LEAST_TOKENS), self._slice_tokens)

    def _end(self, rid: str, outcome: str) -> None:
        del self._parked[rid]
        self.prompts[outcome] += 1
