"""The simulation of the gate decodes what was recorded, and tells a gate that knows likelihoods from others."""

import random

import pytest

from bench.decode.cases import Format, made_up
from bench.decode.predicted import Expected, Guess
from bench.gate import ENGINES, NOTHING, OWN, Decoder, Tally, Turn, turns_of


@pytest.fixture(scope="module")
def form() -> Format:
    return Format(lambda text: [ord(letter) for letter in text])


@pytest.fixture(scope="module")
def turns(form: Format) -> list[Turn]:
    draw = random.Random(1)
    return turns_of(form, made_up(6, draw), made_up(30, draw), 6)


def decoded(form: Format, turns: list[Turn], told: str) -> list[Tally]:
    return Decoder(form, ENGINES["row = step/5"]).decode(turns, told)


def test_every_call_is_decoded_in_fewer_steps_than_tokens(form: Format, turns: list[Turn]) -> None:
    tallies = decoded(form, turns, OWN)
    assert [each.tokens for each in tallies] == [len(turn.case.answer) for turn in turns]
    assert sum(each.steps for each in tallies) < sum(each.tokens for each in tallies) / 2


def foreseen(turns: list[Turn], right: float, wrong: float) -> list[Turn]:
    """Every other turn's call is foreseen at `right`, in place of the others' a call that nobody makes, at `wrong`."""
    told = []
    for number, turn in enumerate(turns):
        call = turn.case.session.turns[turn.case.turn].tool_calls[0]
        guess = Guess(call.name, dict.fromkeys(call.arguments, "src/nobody/asked.py"), wrong)
        guesses = [guess if number % 2 else Guess(call.name, call.arguments, right)]
        told.append(turn._replace(guesses=Expected(guesses, guesses)))
    return told


def test_likelihoods_are_worth_something_and_false_ones_are_not(form: Format, turns: list[Turn]) -> None:
    def seconds(right: float, wrong: float, told: str) -> float:
        return sum(each.seconds for each in decoded(form, foreseen(turns, right, wrong), told))

    own = seconds(0.95, 0.02, OWN)
    assert own < seconds(0.95, 0.02, NOTHING)
    assert own < seconds(0.02, 0.95, OWN)
