"""Ranks whose clocks differ hold the same, because one of them decides for all."""

from array import array
from collections.abc import Sequence

import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from sglang_paste.calls import DEFAULT_TENANT, SessionId
from sglang_paste.schedule.book import Book
from sglang_paste.schedule.holds import Holds, Whose
from sglang_paste.schedule.keeper import Keeper
from sglang_paste.schedule.policies import POLICIES

SESSIONS = [Whose(DEFAULT_TENANT, SessionId(name)) for name in "abcdef"]
Step = tuple[str, int, float]
steps = st.lists(
    st.tuples(st.sampled_from(["turn", "abort", "evict"]), st.integers(0, 5), st.floats(0, 400)), max_size=60
)


class Rank:
    """A rank with a clock of its own."""

    def __init__(self, policy: str, offset: float, pace: float) -> None:
        self.holds = Holds(limit=4)
        self.book = Book()
        self.keeper = Keeper(self.book, POLICIES[policy](self.book))
        self._offset = offset
        self._pace = pace

    def clock(self, now: float) -> float:
        return self._offset + self._pace * now

    def act(self, step: int, what: str, place: int, now: float) -> None:
        whose, request = SESSIONS[place], f"r{step}"
        prompt = array("q", [place] * (step + 1) * 10)
        if what == "evict":
            self.holds.give_up(self.holds.in_order()[: place // 2])
            return
        wanted = self.holds.want(request, whose, prompt)
        self.book.continued(request, whose, [hold.request for hold in wanted], self.clock(now))
        if what == "turn":
            self.holds.add(request, whose, prompt, step, len(prompt))
            self.book.held(request, whose, len(prompt), self.clock(now))
        else:
            self.holds.settle(request)
            self.book.aborted(request, whose, self.clock(now))


def agree(history: Sequence[Step], policy: str, *, own: bool) -> bool:
    """Whether two ranks hold the same after every step; with `own` each listens to itself alone."""
    ranks = [Rank(policy, 0.0, 1.0), Rank(policy, 1000.0, 3.0)]
    now = 0.0
    for step, (what, place, passed) in enumerate(history):
        now += passed
        standings = [rank.keeper.decide(rank.holds, rank.clock(now)) for rank in ranks]
        for rank, standing in zip(ranks, standings if own else [standings[0]] * 2, strict=True):
            rank.holds.apply(standing)
            rank.act(step, what, place, now)
        one, other = ([(hold.number, hold.node, hold.rank) for hold in rank.holds.in_order()] for rank in ranks)
        if one != other:
            return False
    return True


@pytest.mark.parametrize("policy", sorted(POLICIES))
@given(history=steps)
def test_all_ranks_hold_the_same(history: list[Step], policy: str) -> None:
    assert agree(history, policy, own=False)


def test_with_a_clock_each_they_would_not() -> None:
    try:
        found = find(steps, lambda history: not agree(history, "value", own=True), settings=settings(max_examples=2000))
    except NoSuchExample:
        pytest.fail("ranks that decide by themselves were not told apart")
    assert found
