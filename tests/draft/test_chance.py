"""A predicted call is believed as far as it is likely, and more with every token of it that is written."""

import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_paste.draft.chance import Chance, Chances
from sglang_paste.draft.cost import Step
from sglang_paste.draft.gate import Demand, Gate, Offer
from sglang_paste.draft.hints import Source
from sglang_paste.draft.survival import Survival

LONGEST, CALL = 31, 24
Hazards = Callable[[Chance], "np.ndarray[tuple[int], np.dtype[np.float64]]"]
Observe = Callable[[Chance, int, int], None]

chances = st.builds(Chance, st.floats(0, 1), st.integers(0, 60))
seen = st.lists(st.tuples(chances, st.integers(0, 8)), max_size=100)


@given(seen, chances)
@settings(max_examples=50)
def test_odds_stay_odds(told: list[tuple[Chance, int]], chance: Chance) -> None:
    odds = Chances(LONGEST)
    for each, right in told:
        odds.observe(each, right, 8)
    hazards = odds.hazards(chance)
    assert len(hazards) == LONGEST
    assert ((hazards > 0) & (hazards < 1)).all()


@given(chances, st.floats(0, 1))
@settings(max_examples=50)
def test_the_likelier_call_goes_further(chance: Chance, probability: float) -> None:
    odds, (less, more) = Chances(LONGEST), sorted((chance.probability, probability))
    less_far, far = (np.cumprod(1 - odds.hazards(Chance(each, chance.place))) for each in (less, more))
    assert (less_far <= far + 1e-9).all()


@given(st.floats(0.05, 0.95), st.integers(0, 40), st.integers(1, 10))
@settings(max_examples=50)
def test_what_is_written_speaks_for_the_call(probability: float, place: int, more: int) -> None:
    odds = Chances(LONGEST)
    (before, *_), (after, *_) = (odds._ahead(Chance(probability, at)) for at in (place, place + more))
    assert after[0] >= before[0]


def learned(observe: Observe, seed: int, calls: int = 600) -> None:
    """Calls as likely as they are said to be; others leave their text at one of 12 tokens behind the 4th. Drafts are
    compared some tokens at a time."""
    draw = random.Random(seed)
    for _ in range(calls):
        probability = draw.choice((0.05, 0.3, 0.6, 0.9))
        end = CALL if draw.random() < probability else 4 + draw.randrange(12)
        place = 0
        while place <= end < CALL or place < end:
            compared = min(draw.choice((1, 4, 12)), CALL - place)
            right = min(end - place, compared)
            observe(Chance(probability, place), right, compared)
            if right < compared:
                break
            place += compared


def error(hazards: Hazards) -> float:
    """How far it is from the truth how often a call's text is right to its end, at most, drafted from its beginning."""
    return max(
        abs(float(np.prod(1 - hazards(Chance(probability, 0))[:CALL])) - probability)
        for probability in (0.05, 0.3, 0.6, 0.9)
    )


@given(st.integers(0, 99))
@settings(max_examples=5)
def test_calls_come_to_their_end_as_often_as_they_are_likely(seed: int) -> None:
    odds = Chances(LONGEST)
    learned(odds.observe, seed)
    assert error(odds.hazards) < 0.1


def test_the_test_tells_one_that_knows_of_no_likelihoods() -> None:
    survival = Survival(LONGEST)

    def match(chance: Chance) -> int:
        return min(24, 4 + chance.place)

    learned(lambda chance, right, compared: survival.observe(Source.PREDICTED, match(chance), right, compared), 1)
    assert error(lambda chance: survival.hazards(Source.PREDICTED, match(chance))) > 0.3


def width(probability: float, row: float) -> int:
    """The step that a gate takes first for a call so likely, on an engine it knows."""
    gate = Gate(LONGEST)
    for rows in (1, 2, 8, 32) * 20:
        gate.observe(Step(1, rows, 1000), 0.025 + row * (rows - 1), 0.0, 0.0)
    offer = Offer(Source.PREDICTED, 4, range(CALL), Chance(probability, 0))
    return max(gate.plan([Demand("r", [offer], LONGEST)], 1000).width for _ in range(3))


@pytest.mark.parametrize("row", [0.0005, 0.005])
def test_a_likely_call_is_one_step(row: float) -> None:
    assert width(0.95, row) == CALL + 1


@pytest.mark.parametrize(("row", "most"), [(0.005, CALL // 2), (0.03, 1)])
def test_an_unlikely_call_is_drafted_while_it_pays(row: float, most: int) -> None:
    assert width(0.05, row) <= most
