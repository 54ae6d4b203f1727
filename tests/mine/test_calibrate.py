"""Levels make probabilities real, as far as there is evidence."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_paste.mine.calibrate import Outcome, Outcomes, levels


def outcomes(raw: float, hits: int, misses: int) -> Outcomes:
    return {"read": [(raw, False, True)] * hits + [(raw, False, False)] * misses}


@pytest.mark.parametrize(("raw", "real"), [(0.9, 0.5), (0.3, 0.6), (0.05, 0.01), (0.5, 0.5)])
def test_many_outcomes_say_what_a_probability_is(raw: float, real: float) -> None:
    found = levels([outcomes(raw, int(2000 * real), int(2000 * (1 - real)))])
    assert found["read"].real(raw) == pytest.approx(real, abs=0.03)


def test_few_outcomes_change_little() -> None:
    assert levels([outcomes(0.9, 0, 1)])["read"].real(0.9) > 0.75


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_more_probable_stays_more_probable(found: list[Outcome]) -> None:
    level = levels([{"read": found}])["read"]
    reals = [level.real(raw / 10) for raw in range(11)]
    assert reals == sorted(reals)
    assert 0.0 < reals[0] <= reals[-1] < 1.0


def test_outcomes_of_all_parts_count() -> None:
    first, second = outcomes(0.8, 40, 160), outcomes(0.8, 160, 40)
    both = levels([first, second])["read"]
    assert levels([first])["read"].real(0.8) < both.real(0.8) < levels([second])["read"].real(0.8)
    assert levels([first, {"open": []} | second]).keys() == {"", "read"}


def test_nothing_judged() -> None:
    assert levels([{}, {}]) == {}


def test_the_likeliest_has_a_level_of_its_own() -> None:
    some = [(0.3, True, True)] * 600 + [(0.3, True, False)] * 400 + [(0.3, False, True)] * 100
    level = levels([{"read": [*some, *[(0.3, False, False)] * 900]}])["read"]
    assert level.real(0.3, is_best=True) == pytest.approx(0.6, abs=0.03)
    assert level.real(0.3) == pytest.approx(0.1, abs=0.03)


def test_a_tool_seldom_seen_is_like_all_others() -> None:
    found = levels([outcomes(0.5, 100, 900), {"list": [(0.5, False, True)]}])
    assert found["list"].real(0.5) == pytest.approx(found[""].real(0.5), abs=0.05)
