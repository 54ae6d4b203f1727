"""Small online statistics: a rate that forgets, a window of durations, a bounded mapping."""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Annotated, Generic, TypeVar

import msgspec

WINDOW = 32
LOWEST, HIGHEST, TINY = 0.005, 0.995, 1e-12

NonNegative = Annotated[float, msgspec.Meta(ge=0)]
K = TypeVar("K")
V = TypeVar("V")


class Share(msgspec.Struct):
    """A Bernoulli rate as Beta counts that forget, and start again when a run of surprises says the world changed.

    `run` counts the present run of outcomes equal to `last`; `before` is the rate when it began.
    """

    hits: NonNegative = 0.5
    misses: NonNegative = 0.5
    run: Annotated[int, msgspec.Meta(ge=0)] = 0
    last: bool = True
    before: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5

    @property
    def probability(self) -> float:
        """The mean, kept inside (0, 1)."""
        mean = self.hits / (self.hits + self.misses + TINY)
        return LOWEST if mean < LOWEST else HIGHEST if mean > HIGHEST else mean

    def update(self, hit: bool, *, keep: float = 0.98, surprise: float = 4e-3) -> None:
        """Count one outcome. `keep` is what a count is worth one outcome later; a run of equal outcomes that was
        less probable than `surprise` when it began outweighs all that was counted before it."""
        if self.run == 0 or hit != self.last:
            self.run, self.last, self.before = 0, hit, self.probability
        self.run += 1
        expected = self.before if hit else 1.0 - self.before
        if self.run * math.log(expected) < math.log(surprise):
            self.hits = 0.5 + (self.run if hit else 0)
            self.misses = 0.5 + (0 if hit else self.run)
            self.run = 0
            return
        self.hits = self.hits * keep + hit
        self.misses = self.misses * keep + (not hit)


class Samples(msgspec.Struct):
    """The last `WINDOW` durations in seconds, for exact quantiles over them."""

    values: Annotated[list[NonNegative], msgspec.Meta(max_length=WINDOW)] = msgspec.field(default_factory=list)

    def add(self, value: float) -> None:
        """Take in one duration; what is not a finite number of seconds is left out, negative counts as none."""
        if not math.isfinite(value):
            return
        self.values.append(max(value, 0.0))
        del self.values[:-WINDOW]

    def quantile(self, q: float, default: float) -> float:
        """The q-quantile of the window, or `default` while it is empty."""
        if not self.values:
            return default
        ordered = sorted(self.values)
        return ordered[min(int(q * len(ordered)), len(ordered) - 1)]


class Bounded(Generic[K, V]):
    """A mapping that holds the `limit` keys used last; `evicted` hears of each that had to go."""

    def __init__(self, limit: int, evicted: Callable[[K, V], None] | None = None) -> None:
        self._limit = limit
        self._evicted = evicted
        self._items: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._items)

    def __contains__(self, key: K) -> bool:
        return key in self._items

    def __iter__(self) -> Iterator[K]:
        return iter(self._items)

    def get(self, key: K) -> V | None:
        """The value, without counting as a use."""
        return self._items.get(key)

    def use(self, key: K, make: Callable[[], V]) -> V:
        """The value, made where there is none, and now the one used last."""
        value = self._items.get(key)
        if value is None:
            value = self._items[key] = make()
            if len(self._items) > self._limit:
                old, gone = self._items.popitem(last=False)
                if self._evicted is not None:
                    self._evicted(old, gone)
        else:
            self._items.move_to_end(key)
        return value

    def pop(self, key: K) -> V | None:
        """Take the key out."""
        return self._items.pop(key, None)
