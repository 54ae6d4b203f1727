"""Means, quantiles and how sure they are: a bootstrap over sessions, in pairs where two sides played the same ones."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# Of values along the last axis, one for each of the others.
Statistic = Callable[[Array], Array]

DRAWS = 2000
LEVEL = 0.95


class Interval(NamedTuple):
    """A number and the interval in which it lies with a confidence of 95 %."""

    value: float
    low: float
    high: float


def mean(values: Array) -> Array:
    """The arithmetic mean."""
    found: Array = values.mean(axis=-1)
    return found


def quantile(share: float) -> Statistic:
    """The value below which that share of all lies, interpolated between neighbours."""

    def of(values: Array) -> Array:
        found: Array = np.quantile(values, share, axis=-1)
        return found

    return of


STATISTICS: dict[str, Statistic] = {
    "mean": mean,
    "p50": quantile(0.5),
    "p95": quantile(0.95),
    "p99": quantile(0.99),
}


def interval(values: Array, statistic: Statistic, seed: int = 0) -> Interval:
    """Of `values` [sessions, repetitions]. Sessions are drawn, with all their repetitions: these belong together."""
    return _interval(statistic(values.reshape(-1)), statistic(_drawn(values, _draws(len(values), seed))))


def change(base: Array, other: Array, statistic: Statistic, seed: int = 0) -> Interval:
    """By how many per cent `other` is above `base`. Both are [sessions, repetitions]; a row is the same session in
    both, and a draw takes it from both."""
    return _relative(base, other, statistic, seed, lambda one, two: 100 * (two / one - 1))


def ratio(base: Array, other: Array, statistic: Statistic, seed: int = 0) -> Interval:
    """How many times `base` is `other`, drawn in pairs like a change."""
    return _relative(base, other, statistic, seed, lambda one, two: one / two)


def shares(values: Sequence[float]) -> list[tuple[float, float]]:
    """The empirical distribution: for each value, in order, the share of all that is not above it."""
    ordered = sorted(values)
    return [(value, (place + 1) / len(ordered)) for place, value in enumerate(ordered)]


def _relative(
    base: Array, other: Array, statistic: Statistic, seed: int, combine: Callable[[Array, Array], Array]
) -> Interval:
    if len(base) != len(other):
        raise ValueError(f"{len(base)} sessions cannot be paired with {len(other)}")
    draws = _draws(len(base), seed)
    whole = combine(statistic(base.reshape(-1)), statistic(other.reshape(-1)))
    return _interval(whole, combine(statistic(_drawn(base, draws)), statistic(_drawn(other, draws))))


def _draws(count: int, seed: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, count, (DRAWS, count))


def _drawn(values: Array, draws: NDArray[np.int64]) -> Array:
    return values[draws].reshape(len(draws), -1)


def _interval(whole: Array, drawn: Array) -> Interval:
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(whole), float(low), float(high))
