"""Who waits for whom: nobody for long, nobody for nothing, and never those for whom there is room."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import find, given
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from sglang_paste.schedule import admission
from sglang_paste.schedule.admission import WORTHWHILE, Claim, Pace, Stake, held_back

BOUND = 5.0
Decide = Callable[[Sequence[Claim], Sequence[Stake], int, float], list[int]]

worths = st.sampled_from([0.0, 1e-4, 1e-3, 1e-2, 1.0])
stakes = st.lists(st.builds(Stake, tokens=st.integers(0, 3000), worth=worths), min_size=6, max_size=6)
claims = st.lists(
    st.builds(
        Claim,
        need=st.integers(0, 4000),
        waited=st.sampled_from([0.0, 1.0, BOUND, 9.0]),
        own=st.frozensets(st.integers(0, 5), max_size=1),
    ),
    max_size=6,
)
cases = st.tuples(claims, stakes, st.integers(0, 5000))


def broken_rules(decide: Decide, case: tuple[list[Claim], list[Stake], int]) -> bool:
    """Whether a decision holds back who may not be, or lets in what costs more than it may."""
    asked, known, room = case
    waits = decide(asked, known, room, BOUND)
    left = [stake.tokens for stake in known]
    for place, claim in enumerate(asked):
        missing, lost, taken = claim.need - room, 0.0, dict[int, int]()
        for number, stake in enumerate(known):
            if number not in claim.own and missing > 0:
                taken[number] = min(left[number], missing)
                missing -= taken[number]
                lost += taken[number] * stake.worth
        if (place in waits) != (lost > WORTHWHILE and claim.waited < BOUND):
            return True
        if place not in waits:
            room = max(room - claim.need, 0)
            for number in taken.keys() | (claim.own & set(range(len(left)))):
                left[number] = 0 if number in claim.own else left[number] - taken[number]
    return False


@given(cases)
def test_who_waits_saves_more_than_the_waiting_and_nobody_waits_beyond_the_bound(
    case: tuple[list[Claim], list[Stake], int],
) -> None:
    assert not broken_rules(held_back, case)


def _forever(asked: Sequence[Claim], known: Sequence[Stake], room: int, bound: float) -> list[int]:
    return held_back(asked, known, room, float("inf"))


def _one_at_a_time(asked: Sequence[Claim], known: Sequence[Stake], room: int, bound: float) -> list[int]:
    return [place for place, claim in enumerate(asked) if held_back([claim], known, room, bound)]


def _its_own_as_well(asked: Sequence[Claim], known: Sequence[Stake], room: int, bound: float) -> list[int]:
    return held_back([Claim(claim.need, claim.waited) for claim in asked], known, room, bound)


@pytest.mark.parametrize("decide", [_forever, _one_at_a_time, _its_own_as_well])
def test_a_decision_that_breaks_a_rule_is_found(decide: Decide) -> None:
    find(cases, lambda case: broken_rules(decide, case))
    with pytest.raises(NoSuchExample):
        find(cases, lambda case: broken_rules(held_back, case))


def test_a_session_that_is_back_at_once_is_worth_waiting_for_and_one_that_is_long_away_is_not() -> None:
    claim = Claim(need=3000, waited=0.5)
    soon, late = Stake(3000, 10 / 5000), Stake(3000, 0.2 / 5000)
    assert held_back([claim], [soon], 0, BOUND) == [0]
    assert held_back([claim], [late], 0, BOUND) == []
    assert held_back([claim], [late, soon], 0, BOUND) == []
    assert held_back([claim], [soon], 2900, BOUND) == []


def test_the_pace_is_the_best_seen_lately() -> None:
    pace = Pace()
    assert pace.prefill == admission.FIRST_GUESS
    for tokens, seconds in ((1000, 1.0), (100, 1.0), (0, 1.0), (5, 0.0)):
        pace.observe(tokens, seconds)
    assert 900 < pace.prefill < 1000
    for _ in range(200):
        pace.observe(100, 1.0)
    assert pace.prefill == pytest.approx(100.0)
