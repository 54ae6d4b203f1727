"""Rank 0's decisions: what every hold is worth now, and which to let go."""

from collections.abc import Iterable
from itertools import pairwise

import msgspec

from sglang_paste.events import EngineDirective
from sglang_paste.schedule.admission import Pace
from sglang_paste.schedule.book import Book
from sglang_paste.schedule.holds import Hold, Holds, Standing, Whose
from sglang_paste.schedule.policies import Policy

EXPIRY_S = 10.0
# So that looking takes under 1 % of the scheduler's time, however many there are.
PERIOD_PER_HOLD_S = 2e-3
# What a request waits for will be used in about this time.
WANTED_S = 0.1


class Counts(msgspec.Struct):
    """What became of holds: `given_up` for room, `expired` at their time limit, and `released` with their session.
    And of sessions that came back, to all of what they left in the cache (`whole`), to a `part` of it or to nothing
    (`lost`), with the tokens that were `kept_tokens` and `lost_tokens`."""

    given_up: int = 0
    expired: int = 0
    released: int = 0
    whole: int = 0
    part: int = 0
    lost: int = 0
    kept_tokens: int = 0
    lost_tokens: int = 0

    def returned(self, cached: int, wanted: int, slack: int) -> None:
        """A session is back for `wanted` tokens, `cached` of which were there, but for a slack."""
        kept = min(cached, wanted)
        self.kept_tokens += kept
        self.lost_tokens += wanted - kept
        if kept + slack >= wanted:
            self.whole += 1
        elif kept > slack:
            self.part += 1
        else:
            self.lost += 1

    def values(self) -> dict[tuple[str, str], int]:
        """By name and label."""
        return {
            ("ends", "given_up"): self.given_up,
            ("ends", "expired"): self.expired,
            ("ends", "released"): self.released,
            ("returns", "whole"): self.whole,
            ("returns", "part"): self.part,
            ("returns", "lost"): self.lost,
            ("tokens", "kept"): self.kept_tokens,
            ("tokens", "lost"): self.lost_tokens,
        }


class Keeper:
    """Looks through the holds, new ones at once and all of them every `period` seconds, and speaks where their order
    changes. Its standings go to all ranks, this one included."""

    def __init__(self, book: Book, policy: Policy, period: float = 0.1) -> None:
        self.book = book
        self.counts = Counts()
        self.pace = Pace()
        self._policy = policy
        self._period = period
        self._next = 0.0
        self._expiry = 0.0
        self._gone: dict[Whose, None] = {}

    def direct(self, directives: Iterable[EngineDirective]) -> None:
        """Directives of the side process."""
        self._gone |= dict.fromkeys(self.book.direct(directives))
        if self._gone:
            self._next = 0.0

    def decide(self, holds: Holds, now: float) -> Standing:
        """The values that put the holds in a new order, and those to let go; empty where nothing changes."""
        fresh = holds.fresh()
        if now < self._next:
            return self._judge(fresh, now)
        self._next = now + max(self._period, len(holds) * PERIOD_PER_HOLD_S)
        self._learn(now)
        standing = self._judge(holds.in_order(), now)
        self._gone.clear()
        if not fresh and all((one, i) < (other, j) for (i, one), (j, other) in pairwise(standing.values)):
            return Standing(released=standing.released)
        return standing

    def worth(self, hold: Hold, now: float) -> float:
        """Seconds of prefill that are saved for each second that a token of a hold stays."""
        branch = None if hold.wanted else self.book.branch(hold.whose, hold.request)
        if branch is None or branch.state in ("running", "back"):
            index = 1 / WANTED_S if hold.wanted or branch else 0.0
        else:
            index = self.book.absence(branch).index(max(now - branch.since, 0.0))
        return index / self.pace.prefill

    def _judge(self, holds: Iterable[Hold], now: float) -> Standing:
        values: list[tuple[int, float]] = []
        released: list[int] = []
        for hold in holds:
            value = None if hold.wanted else self._value(hold, now)
            if value is not None:
                values.append((hold.number, value))
            elif not hold.wanted:
                released.append(hold.number)
        return Standing(tuple(values), tuple(released))

    def _value(self, hold: Hold, now: float) -> float | None:
        if hold.whose in self._gone:
            self.counts.released += 1
            return None
        branch = self.book.branch(hold.whose, hold.request)
        if branch is None:
            return 0.0
        if branch.state in ("running", "back"):
            return hold.value
        if self._policy.until(branch) <= now:
            self.counts.expired += 1
            return None
        return self._policy.score(branch, now)

    def _learn(self, now: float) -> None:
        if now >= self._expiry:
            self._expiry = now + EXPIRY_S
            self.book.expire(now)
        for ended in self.book.ended():
            self._policy.observe(ended)
