import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_paste.predict.learn import WINDOW, Bounded, Samples, Share

OUTCOMES = st.lists(st.booleans(), max_size=300)


def wrong_until_low(share: Share) -> int:
    """How many misses in a row it takes until the rate is below 0.2."""
    for count in range(1000):
        if share.probability < 0.2:
            return count
        share.update(False)
    return 1000


def learned(outcomes: list[bool]) -> Share:
    share = Share()
    for outcome in outcomes:
        share.update(outcome)
    return share


@settings(deadline=None)
@given(OUTCOMES)
def test_a_rate_stays_inside_zero_and_one(outcomes: list[bool]) -> None:
    assert 0.0 < learned(outcomes).probability < 1.0


@settings(deadline=None)
@given(OUTCOMES)
def test_wrong_predictions_lower_any_rate_soon(outcomes: list[bool]) -> None:
    assert wrong_until_low(learned(outcomes)) <= 20


@pytest.mark.parametrize("before", [1, 3, 10, 100, 1000])
def test_a_sure_rate_falls_within_a_few_misses(before: int) -> None:
    assert wrong_until_low(learned([True] * before)) <= 5


@pytest.mark.parametrize("before", [10, 100, 1000])
def test_a_rate_comes_back_within_a_few_hits(before: int) -> None:
    share = learned([False] * before)
    for _ in range(4):
        share.update(True)
    assert share.probability > 0.5


def test_without_starting_again_it_would_take_long() -> None:
    share = learned([True] * 100)
    count = 0
    while share.probability >= 0.2:
        share.update(False, surprise=0.0 + 1e-300)
        count += 1
    assert count > 20


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5, 0.8, 0.95])
def test_a_rate_is_calibrated(rate: float) -> None:
    source, share, total = random.Random(11), Share(), 0.0
    for _ in range(5000):
        share.update(source.random() < rate)
        total += share.probability
    assert total / 5000 == pytest.approx(rate, abs=0.02)


@settings(deadline=None)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=100), st.floats(0, 1))
def test_quantiles_are_of_the_window(values: list[float], q: float) -> None:
    samples = Samples()
    for value in values:
        samples.add(value)
    assert len(samples.values) <= WINDOW
    found = samples.quantile(q, 7.0)
    assert found in samples.values if samples.values else found == 7.0
    assert found >= 0.0


def test_quantiles_of_a_known_window() -> None:
    samples = Samples([float(at) for at in range(10)])
    assert (samples.quantile(0.5, 0), samples.quantile(0.9, 0), samples.quantile(1.0, 0)) == (5.0, 9.0, 9.0)


@settings(deadline=None)
@given(st.lists(st.integers(0, 20)), st.integers(1, 5))
def test_a_bounded_mapping_holds_the_keys_used_last(keys: list[int], limit: int) -> None:
    gone: list[int] = []
    mapping: Bounded[int, int] = Bounded(limit, lambda key, value: gone.append(key))
    last: list[int] = []
    for key in keys:
        mapping.use(key, lambda: 0)
        last = [*[old for old in last if old != key], key]
    assert list(mapping) == last[-limit:]
    assert len(mapping) <= limit
    assert all(key in keys for key in gone)
