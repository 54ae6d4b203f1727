"""What rank 0 knows of its sessions, with and without a word from the side process."""

import math
from typing import Any

import pytest
from absences import median
from hypothesis import given
from hypothesis import strategies as st

from sglang_paste.calls import DEFAULT_TENANT, SessionId
from sglang_paste.events import CallReady, Expect, Release, StopReason, TurnEnded, TurnStarted
from sglang_paste.schedule.absence import HORIZON
from sglang_paste.schedule.book import Book
from sglang_paste.schedule.holds import Whose

WHOSE = Whose(DEFAULT_TENANT, SessionId("s"))


def turn(
    book: Book,
    request: str,
    start: float,
    end: float,
    *tools: str,
    continues: tuple[str, ...] = (),
    reason: StopReason = "tool_calls",
) -> None:
    """A whole turn, as the scheduler's hooks tell it."""
    head: dict[str, Any] = {"tenant": WHOSE.tenant, "session": WHOSE.session, "request": request, "position": 0}
    book.observe([TurnStarted(**head, time=start, prompt_tokens=10, tools=())])
    book.continued(request, WHOSE, continues, start)
    book.observe([CallReady(**head, time=end, index=0, tool=tool, arguments="{}") for tool in tools])
    book.observe([TurnEnded(**head, time=end, reason=reason, calls=len(tools))])
    if reason not in ("abort", "error"):
        book.held(request, WHOSE, 1000, end)


def expect(time: float, p50: float, p90: float) -> Expect:
    return Expect(
        tenant=WHOSE.tenant, session=WHOSE.session, time=time, p50=p50, p90=p90, hit_probability=0.7, tool_seconds=3.0
    )


def state(book: Book, request: str) -> str | None:
    branch = book.branch(WHOSE, request)
    return branch.state if branch else None


def test_a_turn_that_called_tools_leaves_its_session_away() -> None:
    book = Book()
    turn(book, "r1", 0.0, 2.0, "bash", "read")
    branch = book.branch(WHOSE, "r1")
    assert branch
    assert (branch.state, branch.tools, branch.since, branch.tokens) == ("away", ("bash", "read"), 2.0, 1000)
    turn(book, "r2", 5.0, 6.0, continues=("r1",), reason="stop")
    assert state(book, "r1") is None
    assert state(book, "r2") == "idle"


def test_times_away_are_learned_by_tool() -> None:
    book = Book()
    previous: tuple[str, ...] = ()
    for number in range(60):
        turn(book, f"r{number}", 20.0 * number, 20.0 * number + 8, "slow", continues=previous)
        previous = (f"r{number}",)
    branch = book.branch(WHOSE, "r59")
    assert branch
    assert median(book.absence(branch)) == pytest.approx(12.0, rel=0.25)
    assert len(book.ended()) == 59
    assert not book.ended()


def test_a_directive_sharpens_what_is_expected() -> None:
    book = Book()
    turn(book, "r1", 0.0, 2.0, "bash")
    assert not book.direct([expect(3.0, 10.0, 11.0)])
    branch = book.branch(WHOSE, "r1")
    assert branch
    assert median(book.absence(branch)) == pytest.approx(11.0, rel=0.25)
    session = book.session(WHOSE)
    assert session
    assert (session.hit_probability, session.tool_seconds) == (0.7, 3.0)


def test_a_directive_of_the_turn_before_does_not() -> None:
    book = Book()
    turn(book, "r1", 10.0, 12.0, "bash")
    book.direct([expect(9.0, 100.0, 110.0)])
    branch = book.branch(WHOSE, "r1")
    assert branch
    assert median(book.absence(branch)) < 10


def test_a_release_ends_the_session() -> None:
    book = Book()
    turn(book, "r1", 0.0, 2.0, "bash")
    assert book.direct([Release(tenant=WHOSE.tenant, session=WHOSE.session, time=3.0)]) == [WHOSE]
    assert book.session(WHOSE) is None
    assert [ended.seconds for ended in book.ended()] == [math.inf]
    assert not book.direct([Release(tenant=WHOSE.tenant, session=WHOSE.session, time=3.0)])


def test_an_aborted_request_leaves_what_it_continued() -> None:
    book = Book()
    turn(book, "r1", 0.0, 2.0, "bash")
    turn(book, "r2", 5.0, 6.0, continues=("r1",), reason="abort")
    assert state(book, "r1") == "idle"
    assert state(book, "r2") is None


def test_a_branch_whose_session_goes_on_without_it_is_elsewhere() -> None:
    book = Book()
    turn(book, "r1", 0.0, 2.0, "task")
    turn(book, "r2", 3.0, 4.0, "read")
    left, latest = book.branch(WHOSE, "r1"), book.branch(WHOSE, "r2")
    assert left
    assert latest
    assert left.elsewhere
    assert left.kind != latest.kind


def test_who_stays_away_beyond_the_horizon_is_gone() -> None:
    book = Book()
    turn(book, "r1", 0.0, 2.0, "bash")
    book.expire(2.0 + HORIZON)
    assert len(book) == 1
    book.expire(2.1 + HORIZON)
    assert len(book) == 0
    assert [ended.seconds for ended in book.ended()] == [math.inf]


def test_without_events_a_hold_says_enough() -> None:
    book = Book()
    book.continued("r1", WHOSE, (), 1.0)
    book.held("r1", WHOSE, 50, 3.0)
    assert state(book, "r1") == "idle"


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.booleans()), max_size=80))
def test_it_is_bounded(turns: list[tuple[int, bool, bool]]) -> None:
    book = Book(sessions=3)
    for number, (session, goes_on, ends) in enumerate(turns):
        whose = Whose(DEFAULT_TENANT, SessionId(str(session)))
        known = book.session(whose)
        latest = known.latest if known and goes_on else None
        book.continued(f"r{number}", whose, [latest.request] if latest else [], float(number))
        if ends:
            book.held(f"r{number}", whose, 10, number + 0.5)
        assert len(book) <= 3
        assert all(len(session.branches) <= 17 for session in book)
