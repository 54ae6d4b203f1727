"""Whose next tool call is worth most goes first, and nobody starves."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_paste.schedule.order import Rates, Waiting, Weights, order, utility

RATES = Rates(prefill=1000.0, decode=10.0)
WEIGHTS = Weights(bound=5.0)
Order = Callable[[Sequence[Waiting], Rates, Weights], list[int]]


def waiting(waited: float = 0.0, hit: float = 0.0, tool: float = 0.0, new: int = 1000) -> Waiting:
    return Waiting(waited=waited, new_tokens=new, out_tokens=10, pool_share=0.1, hit_probability=hit, tool_seconds=tool)


def test_without_tools_the_first_that_came_goes_first() -> None:
    assert order([waiting(3.0), waiting(2.0), waiting(1.0)], RATES, WEIGHTS) == [0, 1, 2]


def test_a_likely_long_tool_goes_before_and_costly_work_after() -> None:
    requests = [waiting(), waiting(hit=0.2, tool=0.5), waiting(hit=0.2, tool=0.5, new=9000)]
    assert order(requests, RATES, WEIGHTS) == [1, 0, 2]


def test_the_formula() -> None:
    # 0.1 · 2 s / (2 s · 0.1) + 1.5 s − 4 · 1 s
    assert utility(waiting(1.5, hit=0.1, tool=2.0), RATES, WEIGHTS) == pytest.approx(-1.5)
    assert utility(waiting(hit=1.0, tool=1e9), RATES, WEIGHTS) == WEIGHTS.bound - 4.0


def test_what_is_in_the_cache_goes_before_what_has_to_be_prefilled() -> None:
    assert order([waiting(0.5, new=3000), waiting(new=100)], RATES, WEIGHTS) == [1, 0]
    assert order([waiting(5.0, new=3000), waiting(new=100)], RATES, WEIGHTS) == [0, 1]


def starves(choose: Order, arrivals: Sequence[float]) -> bool:
    """One request without a tool among ever new ones that have the best of tools; one is served a second."""
    queue = [(0.0, waiting())]
    for now in range(1, 60):
        queue += [(now - 0.5, waiting(hit=1.0, tool=each)) for each in arrivals]
        present = [
            Waiting(
                waited=now - came,
                new_tokens=each.new_tokens,
                out_tokens=each.out_tokens,
                pool_share=each.pool_share,
                hit_probability=each.hit_probability,
                tool_seconds=each.tool_seconds,
            )
            for came, each in queue
        ]
        served = queue.pop(choose(present, RATES, WEIGHTS)[0])
        if served[1].tool_seconds == 0.0:
            return now > WEIGHTS.bound + 1
    return True


def by_gain_alone(requests: Sequence[Waiting], rates: Rates, weights: Weights) -> list[int]:
    return sorted(range(len(requests)), key=lambda place: -requests[place].tool_seconds)


@given(st.lists(st.floats(0.1, 1e6), min_size=1, max_size=3))
def test_nobody_starves(arrivals: list[float]) -> None:
    assert not starves(order, arrivals)
    assert starves(by_gain_alone, arrivals)


@given(
    st.lists(st.builds(waiting, waited=st.floats(0, 20), hit=st.floats(0, 1), tool=st.floats(0, 100)), max_size=8).map(
        lambda requests: sorted(requests, key=lambda each: -each.waited)
    )
)
def test_every_request_has_one_place_and_those_overdue_keep_theirs(requests: list[Waiting]) -> None:
    places = order(requests, RATES, WEIGHTS)
    assert sorted(places) == list(range(len(requests)))
    overdue = [place for place in range(len(requests)) if requests[place].waited >= WEIGHTS.bound]
    assert places[: len(overdue)] == overdue
