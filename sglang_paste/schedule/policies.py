"""Which sessions' KV stays: one question, and the answers to it that were published, beside ours.

A policy observes absences as they end, scores the branches that are away, and says until when to wait for one (act).
"""

import math
from collections import OrderedDict
from typing import ClassVar

from sglang_paste.schedule.absence import BINS, NEVER
from sglang_paste.schedule.book import Book, Branch, Ended
from sglang_paste.schedule.holds import Whose

# Up to this context attention costs less than the rest of a forward pass; a token costs twice as much there.
KNEE_TOKENS = 24_576


class Policy:
    """The interface, and the simplest answer: the least recently used goes first."""

    name: ClassVar[str] = "lru"

    def __init__(self, book: Book, knee: int = KNEE_TOKENS) -> None:
        self._book = book
        self._knee = knee

    def observe(self, ended: Ended) -> None:
        """An absence has ended."""

    def score(self, branch: Branch, now: float) -> float:
        """What a token of the branch is worth, to be compared with others now; the lowest goes first."""
        return branch.since

    def until(self, branch: Branch) -> float:
        """The time at which it is let go if it is not back."""
        return math.inf


class Ttl(Policy):
    """A time to live, the same for all."""

    name = "ttl"
    seconds = 30.0

    def until(self, branch: Branch) -> float:
        return branch.since + self.seconds


class Steps(Policy):
    """The one that runs again in the most steps goes first; a step is a turn of any session (KVFlow)."""

    name = "steps"
    remembered = 4096
    weight = 0.3

    def __init__(self, book: Book, knee: int = KNEE_TOKENS) -> None:
        super().__init__(book, knee)
        self._steps: OrderedDict[Whose, float] = OrderedDict()

    def observe(self, ended: Ended) -> None:
        if math.isinf(ended.seconds):
            return
        whose = ended.branch.whose
        known = self._steps.pop(whose, float(ended.turns))
        self._steps[whose] = known + self.weight * (ended.turns - known)
        if len(self._steps) > self.remembered:
            self._steps.popitem(last=False)

    def score(self, branch: Branch, now: float) -> float:
        passed = self._book.turns - branch.turn
        return 1 / (1 + max(self._steps.get(branch.whose, len(self._book)) - passed, 0.0))


class Idleness(Policy):
    """The one that has been idle for the largest part of its time goes first (MORI)."""

    name = "idleness"

    def score(self, branch: Branch, now: float) -> float:
        return branch.busy / (branch.busy + branch.gone + max(now - branch.since, 1e-6))


class Pinned(Policy):
    """Pinned for as long as that saves more than it costs, going by the tool's times away (Continuum)."""

    name = "pinned"
    # What holding a place for a second costs, in parts of what it costs to fill it again.
    price = 0.02

    def until(self, branch: Branch) -> float:
        masses = self._book.absence(branch).masses
        best = limit = back = held = 0.0
        for mass, (start, end) in zip(masses[:NEVER], BINS, strict=True):
            back += mass
            held += mass * (start + end) / 2
            net = back - self.price * (held + (1 - back) * end)
            if net > best:
                best, limit = net, end
        return branch.since + limit


class NextUp(Policy):
    """The least likely to be among the next goes first (PBKV)."""

    name = "next"
    window = 5.0

    def score(self, branch: Branch, now: float) -> float:
        return self._book.absence(branch).within(self.window, now - branch.since)


class Value(Policy):
    """What is saved for each second a token is held: the index of the return, times what a token costs to recompute.

    The index falls for a tool that has overstayed its times, and waiting ends where the session is more likely gone.
    """

    name = "value"

    def score(self, branch: Branch, now: float) -> float:
        cost = 1 + branch.tokens / self._knee
        return self._book.absence(branch).index(max(now - branch.since, 0.0)) * cost

    def until(self, branch: Branch) -> float:
        return branch.since + self._book.absence(branch).patience()


POLICIES: dict[str, type[Policy]] = {each.name: each for each in (Value, Policy, Ttl, Steps, Idleness, Pinned, NextUp)}
DEFAULT_POLICY = Value.name
