"""Two ranks with a tree core and a clock each: what rank 0 says makes them hold, and evict, the same."""

import time
from collections.abc import Sequence
from typing import Any

import pytest
from cache_world import World
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.host
SESSIONS = "abcd"
Step = tuple[str, str, int, float]
steps = st.lists(
    st.tuples(
        st.sampled_from(["turn", "turn", "turn", "abort", "flush"]),
        st.sampled_from([*SESSIONS, "stranger"]),
        st.integers(5, 40),
        st.floats(0, 300),
    ),
    max_size=40,
)


class Engine:
    """Two ranks that are given the same, one iteration after the other."""

    def __init__(self, *, deaf: bool) -> None:
        self.ranks = [World(core, size=96, budget=72) for core in ("rust", "python")]
        self.ranks[1].retention.keeper = None
        self._deaf = deaf
        self._texts: dict[str, list[int]] = {}
        self._now = time.monotonic()

    def step(self, number: int, what: str, session: str, length: int, passed: float) -> None:
        self._now += passed
        standing = self.ranks[0].keeper.decide(self.ranks[0].retention.holds, self._now)
        for rank in self.ranks[: 1 if self._deaf else 2]:
            rank.retention.holds.apply(standing)
        text = [*self._texts.get(session, []), *range(number * 100, number * 100 + length)]
        text = text if len(text) <= 80 else text[-length:]
        if session != "stranger":
            self._texts[session] = text
        for rank in self.ranks:
            self._act(rank, what, None if session == "stranger" else session, text)

    def _act(self, rank: World, what: str, session: str | None, text: list[int]) -> None:
        if what == "flush":
            rank.flush()
            return
        req = rank.queue(session, text)
        if what == "abort":
            rank.abort(req)
            return
        rank.admit(req)
        rank.finish(req)

    def alike(self) -> bool:
        one, other = (self._view(rank) for rank in self.ranks)
        return one == other

    def _view(self, rank: World) -> list[Any]:
        held = [(hold.request, hold.tokens, hold.rank) for hold in rank.held()]
        return [*held, rank.room(), rank.allocator.available_size()]


def agree(history: Sequence[Step], *, deaf: bool) -> bool:
    """Whether two ranks are alike after every step; a deaf one does not hear rank 0."""
    engine = Engine(deaf=deaf)
    for number, step in enumerate(history, start=1):
        engine.step(number, *step)
        if not engine.alike():
            return False
    return True


@pytest.mark.timeout(300)
@settings(max_examples=60)
@given(history=steps)
def test_all_ranks_hold_and_evict_the_same(history: list[Step]) -> None:
    assert agree(history, deaf=False)


def test_a_rank_that_does_not_hear_is_told_apart() -> None:
    quick = settings(max_examples=500, database=None, phases=(Phase.generate,))
    assert find(steps, lambda history: not agree(history, deaf=True), settings=quick)
