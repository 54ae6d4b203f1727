"""The radix cache of one server: a path for each session, evicted from its end by age or in the order of the holds."""

from array import array
from collections import OrderedDict
from collections.abc import Iterator

import msgspec

from sglang_paste.calls import DEFAULT_TENANT, SessionId
from sglang_paste.schedule.book import Book
from sglang_paste.schedule.holds import Hold, Holds, Whose
from sglang_paste.schedule.keeper import Keeper
from sglang_paste.schedule.policies import DEFAULT_POLICY, POLICIES

RETAINED_SHARE = 0.8


def whose(session: str) -> Whose:
    """A session's name in the product's books."""
    return Whose(DEFAULT_TENANT, SessionId(session))


class Path(msgspec.Struct, eq=False):
    """A session's tokens in the cache but for the shared ones, as the segments that its turns left; `users` of it run.
    `known` is its longest prompt as the holds see it: what is in it does not matter, that it grows does."""

    number: int
    segments: list[int] = msgspec.field(default_factory=list)
    users: int = 0
    known: "array[int]" = msgspec.field(default_factory=lambda: array("i"))

    @property
    def tokens(self) -> int:
        """All that is there."""
        return sum(self.segments)

    def prompt(self, length: int) -> "array[int]":
        """A prompt of so many tokens that begins with all earlier ones."""
        self.known.extend([self.number] * (length - len(self.known)))
        return self.known[:length]


class Cache:
    """What is in the pool. `retains`: the product's holds decide what stays, else the least recently used goes."""

    def __init__(self, pool: int, *, retains: bool) -> None:
        self.free = pool
        self.book = Book()
        self.holds = Holds()
        self.keeper = Keeper(self.book, POLICIES[DEFAULT_POLICY](self.book))
        self._pool = pool
        self._retains = retains
        self._paths: OrderedDict[str, Path] = OrderedDict()

    def path(self, session: str) -> Path:
        """A session's path, from now on the one used last."""
        if session not in self._paths:
            self._paths[session] = Path(len(self._paths) + 1)
        self._paths.move_to_end(session)
        return self._paths[session]

    def tokens(self, session: str) -> int:
        """How much of a session is there, its shared tokens not among them."""
        path = self._paths.get(session)
        return path.tokens if path else 0

    def take(self, tokens: int, now: float) -> bool:
        """Room for so many tokens, if need be by eviction; False where there is none, and then nothing is evicted."""
        if self.free < tokens:
            evictable = sum(path.tokens for path in self._paths.values() if not path.users)
            if self.free + evictable < tokens:
                return False
            self._evict(tokens, now)
        self.free -= tokens
        return True

    def want(self, session: str, request: str, prompt: int, now: float) -> None:
        """A session is back with a request."""
        wanted = self.holds.want(request, whose(session), self.path(session).prompt(prompt)) if self._retains else []
        self.book.continued(request, whose(session), [hold.request for hold in wanted], now)

    def give(self, session: str, request: str, prompt: int, new: int, now: float) -> None:
        """A request leaves `new` tokens on its session's path, behind a prompt of so many."""
        path = self.path(session)
        path.segments.append(new)
        if self._retains:
            tokens = path.tokens
            self.holds.add(request, whose(session), path.prompt(prompt), path.number, tokens)
            self.book.held(request, whose(session), tokens, now)

    def extend(self, session: str, prompt: int, new: int) -> None:
        """More of what a session will come back with was prefilled."""
        path = self.path(session)
        path.segments.append(new)
        if self._retains:
            self.holds.extend(whose(session), path.prompt(prompt), path.number, path.tokens)

    def _evict(self, tokens: int, now: float) -> None:
        held: dict[int, list[Hold]] = {}
        if self._retains:
            self.holds.apply(self.keeper.decide(self.holds, now))
            for hold in self.holds.in_order():
                held.setdefault(hold.node or 0, []).append(hold)
        for path in self._victims(held):
            while path.segments and self.free < tokens:
                self.free += path.segments.pop()
                self.holds.give_up(held.pop(path.number, ()))
            if self.free >= tokens:
                return

    def _victims(self, held: dict[int, list[Hold]]) -> Iterator[Path]:
        """What nothing holds by age, then the holds, the lowest first. What the budget has no room for is not held."""
        paths = {path.number: path for path in self._paths.values() if path.segments and not path.users}
        room = RETAINED_SHARE * self._pool
        kept: list[Path] = []
        for number in reversed(held):
            if number in paths and (room := room - paths[number].tokens) >= 0:
                kept.append(paths[number])
        keeps = {path.number for path in kept}
        yield from [path for path in paths.values() if path.number not in keeps]
        yield from reversed(kept)
