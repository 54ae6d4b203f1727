"""What is held, and the order in which it goes."""

from array import array

import pytest
from holds_machine import HoldsMachine
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from sglang_paste.calls import DEFAULT_TENANT, SessionId
from sglang_paste.schedule.holds import PER_SESSION, TAIL, Holds, Mark, Standing, Whose

WHOSE = Whose(DEFAULT_TENANT, SessionId("s"))
OTHER = Whose(DEFAULT_TENANT, SessionId("t"))


def prompt(*parts: tuple[int, int]) -> "array[int]":
    return array("q", [token for token, count in parts for _ in range(count)])


TestHolds = HoldsMachine.TestCase


class NeverSettles(Holds):
    """What a request wanted stays wanted."""

    def settle(self, request: str) -> None:
        pass


class KeepsAll(Holds):
    """What was continued is held beside what continues it."""

    def _replaced(self, hold: object, prompt: "array[int]") -> bool:
        return False


@pytest.mark.parametrize("broken", [NeverSettles, KeepsAll])
def test_the_machine_finds_what_is_broken(broken: type[Holds]) -> None:
    class Broken(HoldsMachine):
        make = broken

    quick = settings(max_examples=500, database=None, report_multiple_bugs=False, phases=(Phase.generate,))
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Broken, settings=quick)


def test_a_turn_takes_the_place_of_the_one_it_continues() -> None:
    holds = Holds()
    holds.add("r1", WHOSE, prompt((1, 100)), node=1, tokens=120)
    holds.add("r2", WHOSE, prompt((1, 100), (2, 50)), node=2, tokens=160)
    assert [hold.request for hold in holds.in_order()] == ["r2"]


def test_answers_to_the_same_prompt_stand_side_by_side() -> None:
    holds = Holds()
    holds.add("r1", WHOSE, prompt((1, 100)), node=1, tokens=120)
    holds.add("r2", WHOSE, prompt((1, 100)), node=2, tokens=120)
    assert len(holds) == 2


def test_another_session_with_the_same_prompt_is_another() -> None:
    holds = Holds()
    holds.add("r1", WHOSE, prompt((1, 100)), node=1, tokens=120)
    assert not holds.want("r2", OTHER, prompt((1, 200)))
    holds.add("r2", OTHER, prompt((1, 200)), node=2, tokens=220)
    assert len(holds) == 2


def test_a_prompt_whose_end_a_template_rewrites_is_continued() -> None:
    mark = Mark.of(prompt((1, 500), (2, TAIL)))
    assert mark.continued_by(prompt((1, 500), (3, 200)))
    assert not mark.continued_by(prompt((1, 499), (3, 200)))
    assert not mark.continued_by(prompt((1, 200)))


def test_what_a_request_waits_for_goes_last() -> None:
    holds = Holds()
    first = holds.add("r1", WHOSE, prompt((1, 100)), node=1, tokens=100)
    second = holds.add("r2", OTHER, prompt((2, 100)), node=2, tokens=100)
    holds.apply(Standing(((first.number, 0.1), (second.number, 5.0))))
    assert holds.in_order() == [first, second]
    holds.want("r3", WHOSE, prompt((1, 200)))
    assert holds.in_order() == [second, first]
    holds.settle("r3")
    assert holds.in_order() == [first, second]


def test_a_fork_keeps_its_origin_while_another_still_waits_for_it() -> None:
    holds = Holds()
    origin = holds.add("r1", WHOSE, prompt((1, 100)), node=1, tokens=100)
    for request, token in (("r2", 2), ("r3", 3)):
        assert holds.want(request, WHOSE, prompt((1, 100), (token, 50))) == [origin]
    holds.add("r2", WHOSE, prompt((1, 100), (2, 50)), node=2, tokens=150)
    assert origin in holds.in_order()
    holds.add("r3", WHOSE, prompt((1, 100), (3, 50)), node=3, tokens=150)
    assert [hold.request for hold in holds.in_order()] == ["r2", "r3"]


def test_of_a_hold_that_is_forgotten_nothing_is_left() -> None:
    holds = Holds(remembered=1)
    hold = holds.add("r", WHOSE, prompt((1, 100)), node=1, tokens=100)
    assert holds.want("waits", WHOSE, prompt((1, 200))) == [hold]
    holds.give_up([hold])
    holds.add("other", OTHER, prompt((2, 64)), node=2, tokens=64)
    assert not holds._wanting
    holds.settle("waits")


def test_what_was_given_up_is_recognised_when_it_comes_back() -> None:
    holds = Holds()
    hold = holds.add("r1", WHOSE, prompt((1, 100)), node=1, tokens=100)
    holds.give_up([hold])
    assert not len(holds)
    assert hold.node is None
    assert holds.want("r2", WHOSE, prompt((1, 200))) == [hold]


def test_what_is_prefilled_ahead_is_held_as_well() -> None:
    holds = Holds()
    hold = holds.add("r1", WHOSE, prompt((1, 100)), node=1, tokens=120)
    assert holds.extend(WHOSE, prompt((1, 100), (2, 60)), node=5, tokens=160) is hold
    assert (hold.node, hold.tokens, hold.prompt_tokens) == (5, 160, 100)
    holds.extend(WHOSE, prompt((1, 100), (2, 30)), node=6, tokens=130)
    assert hold.node == 5
    assert holds.extend(OTHER, prompt((1, 300)), node=7, tokens=300) is None


def test_a_session_has_so_many_branches_at_most() -> None:
    holds = Holds()
    for number in range(2 * PER_SESSION):
        holds.add(f"r{number}", WHOSE, prompt((number, 64)), node=number, tokens=64)
    assert [hold.request for hold in holds.in_order()] == [f"r{n}" for n in range(PER_SESSION, 2 * PER_SESSION)]
