"""What early runs can take off: chances that can be added up by hand."""

import pytest

from bench.replay.lead import Chance, Gain, Guess, gain

RIGHT, WRONG = Guess("a", 0.5, is_right=True), Guess("b", 0.5, is_right=False)


@pytest.mark.parametrize(
    ("chances", "least", "cost", "expected"),
    [
        # As long as the tool runs, and no longer than there is until it is asked for.
        ([Chance(1.0, [(4.0, [RIGHT])])], 0.0, 0.0, Gain(1.0, 0.0)),
        ([Chance(2.0, [(0.5, [RIGHT])])], 0.0, 0.0, Gain(0.25, 0.0)),
        # The first moment counts.
        ([Chance(2.0, [(1.0, [RIGHT]), (0.5, [RIGHT])])], 0.0, 0.0, Gain(0.5, 0.0)),
        # Another call, or none: all of its time is awaited.
        ([Chance(1.0, [(1.0, [WRONG])]), Chance(1.0, [])], 0.0, 0.0, Gain(0.0, 1.0)),
        ([Chance(1.0, [(1.0, [RIGHT, WRONG])])], 0.0, 0.0, Gain(1.0, 1.0)),
        # Not likely enough, and not worth its price.
        ([Chance(1.0, [(1.0, [RIGHT])])], 0.6, 0.0, Gain(0.0, 0.0)),
        ([Chance(1.0, [(0.5, [RIGHT])])], 0.0, 0.49, Gain(0.5, 0.0)),
        ([Chance(1.0, [(0.5, [RIGHT])])], 0.0, 0.51, Gain(0.0, 0.0)),
    ],
)
def test_what_is_gained(chances: list[Chance], least: float, cost: float, expected: Gain) -> None:
    assert gain(chances, least, cost) == expected


def test_no_more_run_than_a_session_may() -> None:
    guesses = [WRONG._replace(key=str(number)) for number in range(9)]
    assert gain([Chance(1.0, [(1.0, [*guesses, RIGHT])])], 0.0, 0.0) == Gain(0.0, 3.0)
