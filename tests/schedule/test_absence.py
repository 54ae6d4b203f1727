"""What is known of absences: distributions that add up, and a worth that follows the tool's times."""

import itertools
import math

import pytest
from absences import median
from hypothesis import given
from hypothesis import strategies as st

from sglang_paste.schedule.absence import BINS, EDGES, HORIZON, MEMORY, NEVER, Absence, Absences, Kinds, lognormal

times = st.floats(0.0, 2 * HORIZON)
masses = st.lists(st.floats(0.0, 1.0), min_size=NEVER + 1, max_size=NEVER + 1).filter(lambda m: sum(m) > 0.01)
certain = st.integers(1, NEVER - 1)


def only(bin: int) -> Absence:
    return Absence([float(place == bin) for place in range(NEVER + 1)])


@given(masses, times, times)
def test_its_probabilities_are_probabilities(parts: list[float], elapsed: float, more: float) -> None:
    absence = Absence([part / sum(parts) for part in parts])
    assert -1e-9 <= absence.within(more, elapsed) <= 1 + 1e-9
    assert -1e-9 <= absence.returns(elapsed) <= 1 + 1e-9
    assert absence.within(more, elapsed) <= absence.returns(elapsed) + 1e-9
    assert 0 <= absence.index(elapsed) < math.inf


@given(masses, times, times, times)
def test_more_time_makes_a_return_no_less_likely(parts: list[float], elapsed: float, one: float, other: float) -> None:
    absence = Absence([part / sum(parts) for part in parts])
    low, high = sorted((one, other))
    assert absence.within(low, elapsed) <= absence.within(high, elapsed) + 1e-9


@given(certain)
def test_one_that_is_certain_to_be_back_in_t_seconds_is_worth_a_tth(bin: int) -> None:
    start, end = BINS[bin]
    assert 1 / end <= only(bin).index(0.0) <= 1 / start
    assert only(bin).index(start * 0.7) > only(bin).index(0.0)


@given(certain)
def test_one_that_has_overstayed_is_worth_nothing(bin: int) -> None:
    late = BINS[min(bin + 1, NEVER - 1)][1] * 1.01
    assert only(bin).index(late) == 0
    assert only(bin).patience() == BINS[bin][1]


@given(st.floats(0.05, 100.0), st.floats(1.2, 20.0))
def test_a_tool_beyond_its_ninth_decile_loses_worth(p50: float, ratio: float) -> None:
    absence = lognormal(p50, p50 * ratio, 0.05)
    assert absence.index(4 * p50 * ratio) < absence.index(p50)


@given(st.floats(0.05, 30.0), st.floats(1.5, 10.0), st.floats(0.0, 0.9))
def test_a_lognormal_has_the_quantiles_it_was_made_of(p50: float, ratio: float, never: float) -> None:
    absence = lognormal(p50, p50 * ratio, never)
    assert sum(absence.masses) == pytest.approx(1)
    assert absence.returns(0.0) <= 1 - never + 1e-9
    assert median(absence) == pytest.approx(p50, rel=0.25)


def test_what_is_seen_takes_the_place_of_what_is_assumed() -> None:
    absences = Absences(lognormal(1.0, 22.0, 0.03))
    for _ in range(100):
        absences.add(8.0)
    assert median(absences.now()) == pytest.approx(8.0, rel=0.25)
    assert absences.now().returns(0.0) > 0.99


def test_what_changes_is_followed() -> None:
    absences = Absences(lognormal(1.0, 22.0, 0.03))
    for seconds in (0.1, 30.0):
        for _ in range(4 * int(MEMORY)):
            absences.add(seconds)
    assert median(absences.now()) == pytest.approx(30.0, rel=0.25)


def test_a_new_kind_is_like_all_of_its_like() -> None:
    kinds = Kinds()
    for _ in range(50):
        kinds.add(("a",), 4.0, tool=True)
        kinds.add(("u",), math.inf, tool=False)
    assert median(kinds.of(("new",), tool=True)) == pytest.approx(4.0, rel=0.25)
    assert kinds.of(("new",), tool=False).returns(0.0) < 0.1


def test_kinds_are_bounded() -> None:
    kinds = Kinds(limit=2)
    for name in "abc":
        for _ in range(200):
            kinds.add((name,), 0.01 if name == "a" else 100.0, tool=True)
    assert median(kinds.of(("a",), tool=True)) > 1.0
    assert median(kinds.of(("c",), tool=True)) == pytest.approx(100.0, rel=0.25)


def test_the_bins_cover_all_times() -> None:
    assert BINS[0][0] == 0
    assert BINS[-1][1] == HORIZON == EDGES[-1]
    assert all(one[1] == other[0] for one, other in itertools.pairwise(BINS))
