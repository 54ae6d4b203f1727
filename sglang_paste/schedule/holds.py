"""What is retained: the end of each conversation's cached path, and the order in which it is given up.

This is kept on every rank and changes only by what all ranks see in the same order: requests that are queued, released
or aborted, and the standings that rank 0 broadcasts. No clock is read here.
"""

import math
import zlib
from array import array
from collections import OrderedDict
from collections.abc import Collection
from typing import NamedTuple

import msgspec

from sglang_paste.calls import SessionId, TenantId

LIMIT = 256
REMEMBERED = 4096
PER_SESSION = 16
# What a prompt is known by: these tokens of it, but for the last ones, which a template may write otherwise once the
# answer follows them.
WINDOW = 1024
TAIL = 32


class Whose(NamedTuple):
    """A session among all tenants'."""

    tenant: TenantId
    session: SessionId


class Mark(NamedTuple):
    """What tells whether a later prompt continues one of this length."""

    length: int
    checksum: int

    @classmethod
    def of(cls, prompt: "array[int]") -> "Mark":
        """That of a prompt."""
        length = max(len(prompt) - TAIL, len(prompt) // 2)
        return cls(length, _checksum(prompt, length))

    def continued_by(self, prompt: "array[int]") -> bool:
        """Whether a prompt begins with the one of this mark, as far as can be told."""
        return self.length <= len(prompt) and _checksum(prompt, self.length) == self.checksum


class Hold(msgspec.Struct, kw_only=True, eq=False):
    """Where a request left its conversation. `node` is the end of its path in the cache, None once it is given up;
    it is known still so that its session's return is recognised. `wanted` are the requests that will continue it."""

    number: int
    whose: Whose
    request: str
    prompt_tokens: int
    tokens: int
    mark: Mark
    node: int | None
    value: float = math.inf
    wanted: set[str] = msgspec.field(default_factory=set)
    place: int = 0

    @property
    def rank(self) -> tuple[bool, float, int]:
        """The lower, the sooner it is given up: what requests wait for goes last, the first in the queue at the end."""
        return bool(self.wanted), -self.place if self.wanted else self.value, self.number


class Standing(msgspec.Struct, frozen=True):
    """What rank 0 makes of the holds: (number, value) of those whose value has changed, and those to let go."""

    values: tuple[tuple[int, float], ...] = ()
    released: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.values or self.released)


class Holds:
    """The holds of an engine. Bounded: `limit` of them hold something, `remembered` are known."""

    def __init__(self, limit: int = LIMIT, remembered: int = REMEMBERED) -> None:
        self._limit = limit
        self._remembered = remembered
        self._known: OrderedDict[int, Hold] = OrderedDict()
        self._sessions: dict[Whose, list[Hold]] = {}
        self._wanting: dict[str, list[Hold]] = {}
        self._held: dict[int, Hold] = {}
        self._fresh: list[Hold] = []
        self._next = 0
        self._places = 0

    def __len__(self) -> int:
        """How many hold something."""
        return len(self._held)

    @property
    def added(self) -> int:
        """How many there have been."""
        return self._next

    def since(self, added: int) -> list[Hold]:
        """Those that hold something and were added after so many others."""
        return [hold for hold in self._held.values() if hold.number > added]

    def in_order(self) -> list[Hold]:
        """Those that hold something, from the first to be given up to the last."""
        return sorted(self._held.values(), key=lambda hold: hold.rank)

    def tokens(self) -> int:
        """The sum over their paths; what several share counts for each."""
        return sum(hold.tokens for hold in self._held.values())

    def fresh(self) -> list[Hold]:
        """Those that were added since the last call, as long as they hold something."""
        fresh, self._fresh = self._fresh, []
        return [hold for hold in fresh if hold.node is not None]

    def of_session(self, whose: Whose) -> list[Hold]:
        """All that is known of a session, the oldest first."""
        return list(self._sessions.get(whose, ()))

    def want(self, request: str, whose: Whose, prompt: "array[int]") -> list[Hold]:
        """A request was queued: what it continues is not given up while it waits. Returns that."""
        wanted = [hold for hold in self._sessions.get(whose, ()) if hold.mark.continued_by(prompt)]
        self._places += 1
        for hold in wanted:
            hold.place = hold.place if hold.wanted else self._places
            hold.wanted.add(request)
        if wanted:
            self._wanting[request] = wanted
        return wanted

    def wanted_by(self, request: str) -> list[Hold]:
        """What a request that was queued continues."""
        return list(self._wanting.get(request, ()))

    def settle(self, request: str) -> None:
        """A request has ended: it wants nothing any more."""
        for hold in self._wanting.pop(request, ()):
            hold.wanted.discard(request)

    def add(self, request: str, whose: Whose, prompt: "array[int]", node: int, tokens: int) -> Hold:
        """A request has ended at `node`, with so many tokens cached: hold that in place of what it continued."""
        self.settle(request)
        branches = self._sessions.get(whose, [])
        for older in [hold for hold in branches if self._replaced(hold, prompt)]:
            self._forget(older)
        self._next += 1
        hold = Hold(
            number=self._next,
            whose=whose,
            request=request,
            prompt_tokens=len(prompt),
            tokens=tokens,
            mark=Mark.of(prompt),
            node=node,
        )
        self._known[hold.number] = self._held[hold.number] = hold
        self._sessions.setdefault(whose, []).append(hold)
        self._fresh = [*self._fresh[-self._limit :], hold]
        self._bound(whose)
        return hold

    def extend(self, whose: Whose, prompt: "array[int]", node: int, tokens: int) -> Hold | None:
        """More of what a session will come back with was prefilled: hold that too. None where nothing leads there."""
        branches = reversed(self._sessions.get(whose, ()))
        hold = next((hold for hold in branches if hold.mark.continued_by(prompt)), None)
        if hold is not None and (hold.node is None or tokens > hold.tokens):
            hold.node, hold.tokens = node, tokens
            self._held[hold.number] = hold
        return hold

    def apply(self, standing: Standing) -> list[Hold]:
        """What rank 0 said; returns those that were let go. Numbers that are not known any more are passed over."""
        for number, value in standing.values:
            if number in self._held:
                self._held[number].value = value
        released = [self._held[number] for number in standing.released if number in self._held]
        self.give_up(released)
        return released

    def give_up(self, holds: Collection[Hold]) -> None:
        """Hold them no longer, but know them still."""
        for hold in holds:
            hold.node = None
            self._held.pop(hold.number, None)

    def restore(self, hold: Hold, node: int) -> None:
        """What was given up is there again."""
        if hold.node is None and hold.number in self._known:
            hold.node = node
            self._held[hold.number] = hold

    def clear(self) -> int:
        """The cache is empty; returns how many held something."""
        count = len(self._held)
        self.give_up(list(self._held.values()))
        return count

    def _replaced(self, hold: Hold, prompt: "array[int]") -> bool:
        return not hold.wanted and hold.prompt_tokens < len(prompt) and hold.mark.continued_by(prompt)

    def _bound(self, whose: Whose) -> None:
        branches = self._sessions[whose]
        if len(branches) > PER_SESSION:
            self._forget(min(branches[:-1], key=lambda hold: (hold.node is not None, *hold.rank)))
        if len(self._held) > self._limit:
            self.give_up(self.in_order()[: len(self._held) - self._limit])
        if len(self._known) > self._remembered:
            self._forget(next(hold for hold in self._known.values() if hold.node is None))

    def _forget(self, hold: Hold) -> None:
        self._known.pop(hold.number, None)
        self._held.pop(hold.number, None)
        for request in hold.wanted:
            self._wanting[request].remove(hold)
            if not self._wanting[request]:
                del self._wanting[request]
        hold.node = None
        branches = self._sessions[hold.whose]
        branches.remove(hold)
        if not branches:
            del self._sessions[hold.whose]


def _checksum(tokens: "array[int]", end: int) -> int:
    return zlib.crc32(memoryview(tokens)[max(end - WINDOW, 0) : end])
