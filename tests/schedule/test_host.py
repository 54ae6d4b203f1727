"""Who is copied to host memory, and who is brought back when, in the place of whom."""

from collections.abc import Callable, Sequence

import hypothesis.strategies as st
from hypothesis import given

from sglang_paste.schedule.absence import lognormal
from sglang_paste.schedule.host import MARGIN, Kept, coming, due, stays

Coming = Callable[[Sequence[Kept], Sequence[Kept], int, int], list[int]]

VALUES = st.sampled_from([0.0, 0.5, 1.0, 1.4, 2.0, 10.0, float("inf")])


def kept(first: int) -> st.SearchStrategy[list[Kept]]:
    sizes = st.lists(st.tuples(st.integers(1, 40), VALUES), max_size=6)
    return sizes.map(lambda all: [Kept(first + place, tokens, value) for place, (tokens, value) in enumerate(all)])


def is_fair(under_test: Coming, waiting: list[Kept], held: list[Kept], room: int, limit: int) -> bool:
    """Nobody is copied beyond the limit, and who goes for them is worth less than the best of them."""
    numbers = under_test(waiting, held, room, limit)
    chosen = [each for each in waiting if each.number in numbers]
    if len(set(numbers)) != len(numbers) or sum(each.tokens for each in chosen) > limit:
        return False
    best = max((each.value for each in chosen), default=0.0)
    taken = sum(each.tokens for each in held if MARGIN * each.value < best)
    return sum(each.tokens for each in chosen) <= room + taken


@given(kept(0), kept(100), st.integers(0, 60), st.integers(0, 120))
def test_who_comes_back_takes_room_and_the_place_of_less(
    waiting: list[Kept], held: list[Kept], room: int, limit: int
) -> None:
    assert is_fair(coming, waiting, held, room, limit)


def test_the_property_catches_one_that_takes_any_place() -> None:
    def greedy(waiting: Sequence[Kept], held: Sequence[Kept], room: int, limit: int) -> list[int]:
        return coming(waiting, [Kept(each.number, each.tokens, -1.0) for each in held], room, limit)

    assert not is_fair(greedy, [Kept(1, 10, 1.0)], [Kept(2, 10, 5.0)], 0, 100)


@given(kept(0))
def test_where_there_is_room_for_all_they_all_come(waiting: list[Kept]) -> None:
    tokens = sum(each.tokens for each in waiting)
    assert sorted(coming(waiting, (), tokens, tokens)) == [each.number for each in waiting]


def test_the_most_valuable_comes_first() -> None:
    assert coming([Kept(1, 10, 1.0), Kept(2, 10, 2.0)], (), 10, 100) == [2]
    assert coming([Kept(1, 10, 2.0)], [Kept(2, 5, 1.0), Kept(3, 5, 1.9)], 5, 100) == [1]
    assert coming([Kept(1, 10, 2.0)], [Kept(2, 4, 1.0), Kept(3, 5, 1.9)], 5, 100) == []


SECONDS = st.floats(0.01, 100)


@given(SECONDS, st.floats(1, 5), st.lists(SECONDS, min_size=2, max_size=2), st.floats(0.001, 2))
def test_who_is_due_stays_due_and_is_so_before_half_of_them_are_back(
    median: float, spread: float, times: list[float], copy: float
) -> None:
    absence, (early, late) = lognormal(median, median * spread, 0.1), sorted(times)
    assert due(absence, late, copy) or not due(absence, early, copy)
    # Times are known by the bin alone.
    assert due(absence, max(median, 0.01) * 2**0.5, copy)


def test_a_minute_long_tool_is_fetched_near_its_end_and_sent_away_at_its_start() -> None:
    minute = lognormal(60, 70, 0.0)
    assert not due(minute, 30, 1)
    assert due(minute, 55, 1)
    assert stays(minute, 1, 1)
    assert not stays(minute, 60, 10)
    assert not stays(lognormal(0.1, 0.2, 0.0), 0, 1)
