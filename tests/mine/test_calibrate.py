"""Levels make probabilities real, as far as there is evidence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_paste.mine.calibrate import Outcomes, levels


def outcomes(raw: float, hits: int, misses: int) -> Outcomes:
    return {"read": [(raw, True)] * hits + [(raw, False)] * misses}


@pytest.mark.parametrize(("raw", "real"), [(0.9, 0.5), (0.3, 0.6), (0.05, 0.01), (0.5, 0.5)])
def test_many_outcomes_say_what_a_probability_is(raw: float, real: float) -> None:
    found = levels([outcomes(raw, int(2000 * real), int(2000 * (1 - real)))])
    assert found["read"].real(raw) == pytest.approx(real, abs=0.03)


def test_few_outcomes_change_little() -> None:
    assert levels([outcomes(0.9, 0, 1)])["read"].real(0.9) > 0.75


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_more_probable_stays_more_probable(found: list[tuple[float, bool]]) -> None:
    level = levels([{"read": found}])["read"]
    reals = [level.real(raw / 10) for raw in range(11)]
    assert reals == sorted(reals)
    assert 0.0 < reals[0] <= reals[-1] < 1.0


def test_outcomes_of_all_parts_count() -> None:
    first, second = outcomes(0.8, 40, 160), outcomes(0.8, 160, 40)
    both = levels([first, second])["read"]
    assert levels([first])["read"].real(0.8) < both.real(0.8) < levels([second])["read"].real(0.8)
    assert levels([first, {"open": []} | second]).keys() == {"read"}


def test_nothing_judged() -> None:
    assert levels([{}, {}]) == {}
