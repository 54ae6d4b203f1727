"""How long sessions stay away, by what they left for, and what that says of one that is away now.

Times are binned on a logarithmic scale. A session that stays longer than HORIZON counts as one that never came back, so
that a tool which takes longer than it ever did makes its session more and more likely to be gone.
"""

import math
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

EDGES = tuple(0.01 * 2 ** (k / 2) for k in range(33))
HORIZON = EDGES[-1]
# [start, end) of each bin in seconds; the mass behind the last is that of never.
BINS = tuple(pairwise((0.0, *EDGES)))
NEVER = len(BINS)

# Median and ninth decile in seconds, and the share that never comes back; this counts as much as so many absences.
TOOL_PRIOR = (1.0, 22.0, 0.03)
USER_PRIOR = (20.0, 200.0, 0.5)
PRIOR_WEIGHT = 4.0
MEMORY = 256.0


class Absence:
    """A distribution of times away, as masses: one for each of BINS, and that of never."""

    def __init__(self, masses: Sequence[float]) -> None:
        self.masses = tuple(masses)
        self._tails = _tails(self.masses)
        self._worth: dict[int, float] = {}
        self._patience: float | None = None

    def returns(self, elapsed: float) -> float:
        """The probability that a session that has been away so long comes back."""
        tail = self._tail(elapsed)
        return (tail - self.masses[NEVER]) / tail if tail > 0 else 0.0

    def within(self, seconds: float, elapsed: float) -> float:
        """The probability that a session that has been away so long is back in so many seconds."""
        tail = self._tail(elapsed)
        return 1 - self._tail(min(elapsed + seconds, HORIZON)) / tail if tail > 0 else 0.0

    def patience(self) -> float:
        """How long a session may be away before it is three times as likely to be gone as to come back; seconds."""
        if self._patience is None:
            self._patience = next((end for start, end in reversed(BINS) if self.returns(start) >= 0.25), 0.0)
        return self._patience

    def index(self, elapsed: float) -> float:
        """The worth of holding a place for a session that has been away so long, per second of holding it.

        This is the Gittins index of its return: the best ratio, over all times to give up at, of the probability that
        it is back by then to the time the place is held until then. For a session that is certain to come back in t
        seconds it is 1/t; for one that has overstayed it falls.
        """
        bin = bisect_right(EDGES, elapsed)
        if bin >= NEVER:
            return 0.0
        start, end = BINS[bin]
        part = (elapsed - start) / (end - start)
        return (1 - part) * self._index_at(bin) + part * self._index_at(bin + 1)

    def _index_at(self, bin: int) -> float:
        if bin not in self._worth:
            self._worth[bin] = self._best_ratio(bin)
        return self._worth[bin]

    def _best_ratio(self, first: int) -> float:
        alive = self._tails[first]
        if first >= NEVER or alive <= 0:
            return 0.0
        since = BINS[first][0]
        back = held = best = 0.0
        for bin in range(first, NEVER):
            start, end = BINS[bin]
            back += self.masses[bin]
            held += self.masses[bin] * ((start + end) / 2 - since)
            best = max(best, back / (held + (alive - back) * (end - since)))
        return best

    def _tail(self, elapsed: float) -> float:
        bin = bisect_right(EDGES, elapsed)
        if bin >= NEVER:
            return self.masses[NEVER]
        start, end = BINS[bin]
        return self._tails[bin] - self.masses[bin] * (elapsed - start) / (end - start)


def lognormal(p50: float, p90: float, never: float) -> Absence:
    """What is known only by its median and its ninth decile (seconds), and the share that never comes back."""
    median = max(p50, EDGES[0])
    spread = max(math.log(max(p90, median) / median) / 1.2816, 0.1)
    below = [_normal(math.log(edge / median) / spread) for edge in EDGES]
    finite = [after - before for before, after in pairwise((0.0, *below))]
    return Absence([*(mass * (1 - never) for mass in finite), 1 - below[-1] * (1 - never)])


class Absences:
    """What was seen of one kind of absence, on top of what is known before; it follows what changes."""

    def __init__(self, prior: "Absences | Absence") -> None:
        self._prior = prior
        self._counts = [0.0] * (NEVER + 1)
        self._seen = 0.0
        self._known: tuple[Absence, Absence] | None = None

    def add(self, seconds: float) -> None:
        """One absence; infinity for one that did not end."""
        if self._seen >= MEMORY:
            self._counts = [count / 2 for count in self._counts]
            self._seen /= 2
        self._counts[bisect_right(EDGES, seconds)] += 1
        self._seen += 1
        self._known = None

    def now(self) -> Absence:
        """The distribution as it is known now."""
        prior = self._prior if isinstance(self._prior, Absence) else self._prior.now()
        if self._known is None or self._known[0] is not prior:
            whole = self._seen + PRIOR_WEIGHT
            pairs = zip(self._counts, prior.masses, strict=True)
            self._known = (prior, Absence([(count + PRIOR_WEIGHT * mass) / whole for count, mass in pairs]))
        return self._known[1]


class Kinds:
    """The kinds of absence, each under its own name, the longest unused forgotten first."""

    def __init__(self, limit: int = 1024) -> None:
        self._limit = limit
        self._all = {True: Absences(lognormal(*TOOL_PRIOR)), False: Absences(lognormal(*USER_PRIOR))}
        self._kinds: OrderedDict[tuple[str, ...], Absences] = OrderedDict()

    def add(self, kind: tuple[str, ...], seconds: float, *, tool: bool) -> None:
        """An absence of this kind has ended, or (infinity) will not end."""
        self._all[tool].add(seconds)
        if kind not in self._kinds:
            self._kinds[kind] = Absences(self._all[tool])
            if len(self._kinds) > self._limit:
                self._kinds.popitem(last=False)
        self._kinds.move_to_end(kind)
        self._kinds[kind].add(seconds)

    def of(self, kind: tuple[str, ...], *, tool: bool) -> Absence:
        """What is known of a kind, or of all like it."""
        return self._kinds.get(kind, self._all[tool]).now()


def _tails(masses: Sequence[float]) -> tuple[float, ...]:
    tails = [0.0]
    for mass in reversed(masses):
        tails.append(tails[-1] + mass)
    return tuple(reversed(tails[1:]))


def _normal(deviations: float) -> float:
    return 0.5 * (1 + math.erf(deviations / math.sqrt(2)))
