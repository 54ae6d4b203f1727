"""The ledger, case by case: what ends an entry."""

import pytest
from ledger_cases import (
    DONE,
    ONE,
    POLICIES,
    RED,
    TWO,
    admit,
    make_call,
    make_candidate,
    make_issued,
    make_likely,
    make_ready,
    make_returned,
    refused,
    run,
)

from sglang_paste.calls import SessionId
from sglang_paste.config import Limits
from sglang_paste.errors import LedgerError
from sglang_paste.events import CallAborted
from sglang_paste.execute.base import Outcome
from sglang_paste.speculate.announced import ANNOUNCED_TTL_S, MAX_ANNOUNCED, Announcements
from sglang_paste.speculate.ledger import ENTRY_BYTES, Ledger


@pytest.mark.parametrize(
    ("writer", "of", "gone"),
    [
        ("write", ONE, {"read one", "look one"}),
        ("write", None, {"read one", "look one", "read two", "look two"}),
        ("commit", ONE, {"look one", "look two", "search one", "search two"}),
        ("odd", ONE, {"look one", "look two", "search one", "search two"}),
        ("shell", ONE, {"read one", "look one", "look two", "search one", "search two"}),
    ],
)
def test_a_write_squashes_what_reads_what_it_writes(
    ledger: Ledger, writer: str, of: SessionId | None, gone: set[str]
) -> None:
    for session in (ONE, TWO):
        for tool in ("add", "read", "look", "search"):
            run(ledger, make_candidate(tool, session=session))
    footprint, squashed = ledger.begin_write(make_call(writer, session=of), of, 1.0)
    assert {f"{entry.tool} {entry.session}" for entry in squashed} == gone
    assert {(entry.state, entry.why) for entry in squashed} == {("squashed", "written")}
    assert refused(ledger, make_candidate("look", {"n": 1})) == "write under way"
    assert ledger.end_write(footprint, 2.0) == []
    admit(ledger, make_candidate("look", {"n": 1}), 3.0)
    with pytest.raises(LedgerError, match="never began"):
        ledger.end_write(footprint, 2.0)


def test_a_write_of_another_tenant_meets_only_what_is_shared(ledger: Ledger) -> None:
    entries = [run(ledger, make_candidate(tool)) for tool in ("read", "search")]
    _, squashed = ledger.begin_write(make_call("shell", tenant="blue"), ONE, 0.0)
    assert squashed == entries[1:]


def test_a_read_is_no_write(ledger: Ledger) -> None:
    entry = run(ledger)
    assert ledger.begin_write(make_call("look"), ONE, 0.0) == (None, [])
    assert ledger.end_write(None, 0.0) == []
    assert entry.state == "ready"


def test_a_tool_that_ran_elsewhere_counts_as_a_write(ledger: Ledger) -> None:
    entry = run(ledger)
    assert ledger.returned(make_returned("search"), 1.0) == []
    assert ledger.returned(make_returned("commit"), 1.0) == []
    assert ledger.returned(make_returned("theirs", "not json"), 1.0) == [entry]
    again = run(ledger)
    assert ledger.returned(make_returned("write"), 1.0) == [again]


def test_a_write_through_the_gateway_is_not_counted_twice(ledger: Ledger) -> None:
    for session, call_id in ((ONE, "c"), (None, None), (ONE, None)):
        ledger.claim(make_call("shell", {"x": 1}, session, call_id), 0.0)
        entry = run(ledger)
        assert ledger.returned(make_returned("shell", '{"x": 1}', call_id="c"), 1.0) == []
        assert ledger.returned(make_returned("shell", '{"x": 1}', call_id="c"), 1.0) == [entry]
    ledger.claim(make_call("shell", {"x": 1}, ONE, "another"), 0.0)
    entry = run(ledger)
    assert ledger.returned(make_returned("shell", '{"x": 1}', call_id="c"), 1.0) == [entry]


def test_a_call_that_turns_out_to_be_another_is_squashed(ledger: Ledger) -> None:
    ledger.announce(make_likely(arguments='{"n": 1}'), 0.0)
    looked = run(ledger, make_candidate(arguments={"n": 1}))
    guessed = run(ledger, make_candidate(arguments={"n": 2}, source="pattern"))
    assert ledger.announce(make_ready(arguments='{"n": 3}'), 1.0) == [looked]
    assert (looked.state, looked.why, guessed.state) == ("squashed", "another call", "ready")


def test_a_call_that_another_one_expects_as_well_stays(ledger: Ledger) -> None:
    ledger.announce(make_ready(index=1), 0.0)
    ledger.announce(make_likely(), 0.0)
    entry = run(ledger)
    assert ledger.announce(make_ready(arguments='{"n": 3}'), 1.0) == []
    assert entry.state == "ready"


def test_an_aborted_call_is_cancelled(ledger: Ledger) -> None:
    ledger.announce(make_likely(), 0.0)
    entry = admit(ledger)
    ledger.started(entry, 0.0)
    aborted = CallAborted(tenant=RED, session=ONE, request="r", position=7, time=1.0, index=0, tool=None, reason="stop")
    assert ledger.withdraw(aborted, 1.0) == [entry]
    assert (entry.state, entry.why, entry.executing) == ("cancelled", "withdrawn", True)
    assert ledger.withdraw(aborted, 1.0) == []


def test_broken_announcements_are_ignored(ledger: Ledger) -> None:
    assert ledger.announce(make_ready(arguments="[]"), 0.0) == []
    assert ledger.announce(make_ready("theirs"), 0.0) == []


def test_a_session_ends_but_not_what_is_waited_for(ledger: Ledger) -> None:
    joined = admit(ledger)
    ledger.started(joined, 0.0)
    ledger.claim(make_call(), 0.0)
    ready = run(ledger, make_candidate("look"))
    other = run(ledger, make_candidate(session=TWO))
    run(ledger, make_candidate("add"))
    ledger.claim(make_call("add"), 0.0)
    assert ledger.end_session(RED, ONE, 1.0) == [ready]
    assert ledger.claim(make_call("add"), 1.0).kind == "miss"
    assert (ready.state, other.state) == ("cancelled", "ready")
    ledger.settled(joined, DONE, 2.0)
    assert ledger.collect(joined) == DONE


def test_nobody_waits_for_a_cancelled_entry(ledger: Ledger) -> None:
    entry = admit(ledger)
    ledger.started(entry, 0.0)
    ledger.claim(make_call(), 0.0)
    with pytest.raises(LedgerError, match="waited for"):
        ledger.cancel(entry, 1.0, "authoritative first")
    ledger.abandon(entry, 1.0)
    ledger.cancel(entry, 1.0, "authoritative first")
    assert (entry.state, entry.why) == ("cancelled", "authoritative first")
    with pytest.raises(LedgerError, match="cannot become cancelled"):
        ledger.cancel(entry, 1.0, "again")


def test_time_ends_what_nobody_asks_for(ledger: Ledger) -> None:
    assert ledger.next_expiry() is None
    queued = admit(ledger, make_candidate("look"), now=1.0)
    ready = run(ledger, now=2.0)
    running = admit(ledger, make_candidate("search"), now=0.0)
    ledger.started(running, 0.0)
    assert ledger.next_expiry() == 121.0
    assert ledger.expire(120.9) == []
    assert ledger.expire(122.0) == [queued, ready]
    assert (ready.state, ready.outcome, running.state) == ("expired", None, "running")
    assert ledger.next_expiry() is None


def test_a_run_settles_once(ledger: Ledger) -> None:
    entry = admit(ledger)
    with pytest.raises(LedgerError, match="no run"):
        ledger.settled(entry, DONE, 0.0)
    ledger.started(entry, 0.0)
    ledger.settled(entry, DONE, 0.0)
    with pytest.raises(LedgerError, match="no run"):
        ledger.settled(entry, DONE, 0.0)


def test_results_are_bounded_and_the_least_useful_goes_first() -> None:
    ledger = Ledger(POLICIES, Limits(results_bytes=3 * ENTRY_BYTES))
    run(ledger, make_candidate("add"))
    ledger.claim(make_call("add"), 0.0)
    poor = run(ledger, make_candidate(arguments={"n": 1}, probability=0.3), Outcome(content=""))
    good = run(ledger, make_candidate(arguments={"n": 2}), Outcome(content=""))
    assert ledger.claim(make_call("add"), 0.0).kind == "miss"
    third = run(ledger, make_candidate(arguments={"n": 3}), Outcome(content="x" * ENTRY_BYTES))
    assert (poor.state, poor.why, good.state, third.state) == ("expired", "no room", "ready", "ready")
    huge = run(ledger, make_candidate(arguments={"n": 4}), Outcome(content="\u20ac" * ENTRY_BYTES))
    assert (huge.state, huge.why) == ("expired", "too large")
    assert ledger.results_bytes == 3 * ENTRY_BYTES
    assert ledger.expire(0.0) == [poor, huge]


def test_a_result_too_large_to_keep_still_reaches_who_waits() -> None:
    ledger = Ledger(POLICIES, Limits(results_bytes=ENTRY_BYTES))
    for tool in ("read", "add"):
        entry = admit(ledger, make_candidate(tool))
        ledger.started(entry, 0.0)
        ledger.claim(make_call(tool), 0.0)
        ledger.settled(entry, Outcome(content="xx", structured={"a": 1}), 0.0)
        assert ledger.results_bytes == 0
        collected = ledger.collect(entry)
        assert collected is not None
        assert collected.content == "xx"


def test_closing_ends_everything(ledger: Ledger) -> None:
    entries = [admit(ledger), run(ledger, make_candidate("look")), admit(ledger, make_candidate("search"))]
    ledger.started(entries[2], 0.0)
    ledger.claim(make_call("search"), 0.0)
    assert ledger.close(1.0) == entries
    assert {entry.state for entry in entries} == {"cancelled"}
    ledger.settled(entries[2], DONE, 2.0)
    assert ledger.collect(entries[2]) is None


def test_announcements_are_bounded_and_the_forgotten_leave_no_false_certainty() -> None:
    announced = Announcements(limit=3)
    announced.keyed(make_ready(request="a"), "same")
    announced.keyed(make_ready(request="b", session=TWO), "same")
    announced.keyed(make_ready(request="c"), "other")
    announced.keyed(make_ready(request="d"), "another")
    assert announced.session_of(RED, "same", None) is None
    assert announced.session_of(RED, "other", None) == ONE
    assert len(announced) == 2
    announced.expire(ANNOUNCED_TTL_S - 0.1)
    assert len(announced) == 2
    announced.expire(ANNOUNCED_TTL_S)
    assert len(announced) == 0


def test_a_flood_of_announcements_does_not_grow(ledger: Ledger) -> None:
    for number in range(MAX_ANNOUNCED + 100):
        ledger.announce(make_issued(f"c{number}", request=f"r{number}"), 0.0)
    assert len(ledger._announced) == MAX_ANNOUNCED
