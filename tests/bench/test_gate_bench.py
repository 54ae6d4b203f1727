"""The simulation of the gate decodes what was recorded, and tells a gate that knows likelihoods from others."""

import random

import pytest

from bench.decode.cases import Format, made_up
from bench.gate import ENGINES, NOTHING, OTHERS, OWN, Decoder, Tally, Turn, turns_of


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


def test_likelihoods_are_worth_something_and_those_of_other_calls_are_not(form: Format, turns: list[Turn]) -> None:
    nothing, own, others = (sum(each.seconds for each in decoded(form, turns, told)) for told in (NOTHING, OWN, OTHERS))
    assert own < nothing
    assert own < others
