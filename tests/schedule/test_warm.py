"""Prompts are prefilled ahead in slices, one at a time, each only once."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from sglang_paste.schedule.warm import LEAST_TOKENS, LEFT_TOKENS, SLICE_S, WarmLine


def test_a_prompt_goes_in_slices_from_what_is_there_but_for_its_end() -> None:
    line: WarmLine[str] = WarmLine(slice_tokens=100)
    line.park("a", "prompt", start=1000, length=1250 + LEFT_TOKENS, now=0.0)
    ends = []
    while (given_ := line.next(0.0)) is not None:
        piece, item = given_
        assert item == "prompt"
        assert line.next(0.0) is None
        ends.append(piece.end)
        line.ended("a", 0.01, prefilled=True)
    assert ends == [1032, 1132, 1232, 1250]
    assert line.tokens == 250
    assert not line


@given(st.floats(1.0, 1e5), st.integers(LEAST_TOKENS, 4096))
def test_slices_take_no_longer_than_they_may(rate: float, most: int) -> None:
    line: WarmLine[None] = WarmLine(slice_tokens=most, patience=1e9)
    line.park("a", None, 0, 1_000_000, 0.0)
    now, done = 0.0, 0
    for _ in range(12):
        found = line.next(now)
        assert found is not None
        tokens = found[0].end - done
        assert LEAST_TOKENS <= tokens <= most
        assert tokens <= max(LEAST_TOKENS, rate * SLICE_S + 1)
        now, done = now + tokens / rate, found[0].end
        line.ended("a", now, prefilled=True)
    assert tokens >= min(most, rate * SLICE_S) - 1


def test_what_was_called_off_is_done_again_and_what_is_dropped_is_not() -> None:
    line: WarmLine[None] = WarmLine(slice_tokens=10)
    line.park("a", None, 0, 20 + LEFT_TOKENS, 0.0)
    line.next(0.0)
    assert line.ended("a", 0.0, prefilled=False) == 0
    again = line.next(0.0)
    assert again is not None
    assert again[0].end == 10
    assert line.drop("a")
    assert line.ended("a", 0.0, prefilled=True) == 0
    assert line.next(0.0) is None
    line.park("b", None, 0, 20 + LEFT_TOKENS, 0.0)
    assert not line.drop("b")
    assert line.drop("c")


def test_it_is_bounded_in_number_and_time() -> None:
    line: WarmLine[int] = WarmLine(limit=2, patience=10.0)
    for number in range(4):
        line.park(str(number), number, 0, 5 + LEFT_TOKENS, float(number))
    first = line.next(11.0)
    assert first is not None
    assert first[1] == 2
    line.ended("2", 0.0, prefilled=True)
    assert line.next(13.0) is None


def test_a_slice_that_is_never_heard_of_again_blocks_nobody_for_ever() -> None:
    line: WarmLine[int] = WarmLine(patience=10.0)
    line.park("lost", 0, 0, 5 + LEFT_TOKENS, 0.0)
    assert line.next(0.0) is not None
    line.park("next", 1, 0, 5 + LEFT_TOKENS, 5.0)
    assert line.next(9.0) is None
    found = line.next(10.5)
    assert found is not None
    assert found[0].rid == "next"


class Engine(RuleBasedStateMachine):
    """An engine that takes slices, calls some off, and loses none."""

    line_class: type[WarmLine[int]] = WarmLine

    def __init__(self) -> None:
        super().__init__()
        self.line = self.line_class(slice_tokens=7, limit=3, patience=1e9)
        self.lengths: dict[str, int] = {}
        self.cached: dict[str, int] = {}
        self.running: list[tuple[str, int]] = []

    @rule(start=st.integers(0, 20), more=st.integers(1, 30))
    def park(self, start: int, more: int) -> None:
        rid = f"r{len(self.lengths)}"
        self.lengths[rid], self.cached[rid] = start + more, start
        self.line.park(rid, start, start, start + more + LEFT_TOKENS, 0.0)

    @rule()
    def give(self) -> None:
        given_ = self.line.next(0.0)
        if given_ is not None:
            piece, _ = given_
            assert self.cached[piece.rid] < piece.end <= self.cached[piece.rid] + 7, "a slice too large or none"
            self.running.append((piece.rid, piece.end))

    @precondition(lambda self: self.running)
    @rule(prefilled=st.booleans())
    def end(self, prefilled: bool) -> None:
        rid, end = self.running.pop()
        self.line.ended(rid, 0.0, prefilled=prefilled)
        if prefilled:
            self.cached[rid] = end

    @rule(data=st.data())
    def back(self, data: st.DataObject) -> None:
        if self.lengths:
            rid = data.draw(st.sampled_from(sorted(self.lengths)))
            running = any(each == rid for each, _ in self.running)
            assert self.line.drop(rid) or not running, "a slice under way was not aborted"

    @invariant()
    def one_at_a_time(self) -> None:
        assert len(self.running) <= 1, "two at a time"


class TwoAtATime(WarmLine[int]):
    def next(self, now: float) -> Any:
        self._under_way = None
        return super().next(now)


class ForgetsWhatIsDone(WarmLine[int]):
    def ended(self, rid: str, now: float, *, prefilled: bool) -> int:
        return super().ended(rid, now, prefilled=False)


def test_it_keeps_its_promises() -> None:
    run_state_machine_as_test(Engine, settings=settings(max_examples=50, deadline=None))


@pytest.mark.parametrize("broken", [TwoAtATime, ForgetsWhatIsDone])
def test_a_broken_one_is_found_out(broken: type[WarmLine[int]]) -> None:
    machine = type("Broken", (Engine,), {"line_class": broken})
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=settings(max_examples=200, deadline=None, database=None))


@given(st.integers(0, 50), st.integers(0, 50))
def test_nothing_is_parked_that_is_all_there(start: int, length: int) -> None:
    line: WarmLine[None] = WarmLine()
    line.park("a", None, start, length, 0.0)
    assert bool(line) == (start < length - LEFT_TOKENS)
