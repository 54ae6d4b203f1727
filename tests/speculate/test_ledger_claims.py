"""The ledger, case by case: what a claim finds, and what ends an entry."""

import pytest

from sglang_paste.calls import Arguments, SessionId, TenantId, ToolCall
from sglang_paste.config import Limits, Policy
from sglang_paste.errors import BadArguments, LedgerError
from sglang_paste.events import CallAborted, CallIssued, CallLikely, CallReady, ToolReturned
from sglang_paste.execute.base import Outcome
from sglang_paste.predict.base import Candidate, RunTime, Source
from sglang_paste.speculate import ledger as module
from sglang_paste.speculate.announced import ANNOUNCED_TTL_S, MAX_ANNOUNCED, Announcements
from sglang_paste.speculate.entries import Entry, Refusal
from sglang_paste.speculate.ledger import ENTRY_BYTES, Ledger

RED = TenantId("red")
ONE, TWO = SessionId("one"), SessionId("two")
DONE = Outcome(content="done")
POLICIES = {
    "add": Policy(effect="pure", speculate=True, observes="local", inert=("note",)),
    "read": Policy(effect="read", reads=("session:files",), speculate=True, observes="local"),
    "look": Policy(effect="read", speculate=True, observes="local"),
    "search": Policy(effect="read", reads=("repo",), speculate=True, observes="local"),
    "write": Policy(effect="write", writes=("session:files",)),
    "commit": Policy(effect="write", writes=("repo",), speculate=True, observes="local"),
    "shell": Policy(effect="write"),
    "odd": Policy(effect="read", writes=("repo",), speculate=True, observes="local"),
    "shy": Policy(effect="read", observes="local"),
    "web": Policy(effect="read", speculate=True),
}


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(POLICIES, Limits())


def make_candidate(
    tool: str = "read",
    arguments: Arguments | None = None,
    session: SessionId = ONE,
    *,
    probability: float = 0.9,
    source: Source = "stream",
) -> Candidate:
    return Candidate(
        tenant=RED,
        session=session,
        tool=tool,
        arguments=arguments or {},
        probability=probability,
        run_time=RunTime(p50=1.0, p90=2.0),
        claimed_in=1.0,
        source=source,
    )


def make_call(
    tool: str = "read",
    arguments: Arguments | None = None,
    session: SessionId | None = ONE,
    call_id: str | None = None,
    tenant: str = RED,
) -> ToolCall:
    return ToolCall(tenant=TenantId(tenant), tool=tool, arguments=arguments or {}, session=session, call_id=call_id)


def make_ready(
    tool: str = "read", session: SessionId = ONE, request: str = "r", index: int = 0, arguments: str = "{}"
) -> CallReady:
    return CallReady(
        tenant=RED, session=session, request=request, position=9, time=0.0, index=index, tool=tool, arguments=arguments
    )


def make_likely(tool: str = "read", arguments: str = "{}") -> CallLikely:
    return CallLikely(
        tenant=RED, session=ONE, request="r", position=5, time=0.0, index=0, tool=tool, arguments=arguments
    )


def make_issued(call_id: str, tool: str = "read", session: SessionId = ONE, request: str = "r") -> CallIssued:
    return CallIssued(
        tenant=RED, session=session, request=request, position=9, time=0.0, index=0, tool=tool, call_id=call_id
    )


def make_returned(tool: str, arguments: str = "{}", session: SessionId = ONE, call_id: str = "c") -> ToolReturned:
    return ToolReturned(
        tenant=RED,
        session=session,
        request="q",
        position=0,
        time=0.0,
        tool=tool,
        call_id=call_id,
        arguments=arguments,
        content="",
    )


def admit(ledger: Ledger, candidate: Candidate | None = None, now: float = 0.0) -> Entry:
    entry = ledger.admit(candidate or make_candidate(), now)
    assert isinstance(entry, Entry), entry
    return entry


def run(ledger: Ledger, candidate: Candidate | None = None, outcome: Outcome = DONE, now: float = 0.0) -> Entry:
    entry = admit(ledger, candidate, now)
    ledger.started(entry, now)
    ledger.settled(entry, outcome, now)
    return entry


def refused(ledger: Ledger, candidate: Candidate) -> str:
    refusal = ledger.admit(candidate, 0.0)
    assert isinstance(refusal, Refusal)
    return refusal.reason


def test_a_ready_result_is_reused_once(ledger: Ledger) -> None:
    entry = run(ledger)
    claim = ledger.claim(make_call(), 1.0)
    assert (claim.kind, claim.outcome, claim.session) == ("reused", DONE, ONE)
    assert (entry.state, entry.ended_at, entry.outcome) == ("claimed", 1.0, None)
    assert ledger.claim(make_call(), 1.0).kind == "miss"
    assert ledger.results_bytes == 0


def test_a_pure_result_serves_until_its_time_is_over(ledger: Ledger) -> None:
    entry = run(ledger, make_candidate("add", {"x": 1, "note": "a"}))
    for _ in range(3):
        claim = ledger.claim(make_call("add", {"x": 1, "note": "b"}), 119.9)
        assert (claim.kind, claim.outcome) == ("reused", DONE)
    assert entry.state == "claimed"
    assert refused(ledger, make_candidate("add", {"x": 1})) == "present"
    assert ledger.claim(make_call("add", {"x": 1}), 120.0).kind == "miss"
    assert ledger.expire(120.0) == []
    assert ledger.results_bytes == 0


def test_a_tool_error_is_a_result(ledger: Ledger) -> None:
    error = Outcome(content="no such file", is_error=True)
    run(ledger, outcome=error)
    assert ledger.claim(make_call(), 0.0).outcome == error


def test_a_failed_run_is_never_handed_out(ledger: Ledger) -> None:
    entry = run(ledger, outcome=Outcome(content="too slow", failure="timeout"))
    assert (entry.state, entry.why) == ("failed", "timeout")
    assert ledger.claim(make_call(), 0.0).kind == "miss"


def test_a_claim_joins_a_running_entry(ledger: Ledger) -> None:
    entry = admit(ledger)
    ledger.started(entry, 0.0)
    assert ledger.claim(make_call(), 0.0).kind == "joined"
    assert ledger.claim(make_call(), 0.0).kind == "miss"
    with pytest.raises(LedgerError, match="still running"):
        ledger.collect(entry)
    ledger.settled(entry, DONE, 1.0)
    assert ledger.collect(entry) == DONE
    assert (entry.state, entry.outcome) == ("claimed", None)
    with pytest.raises(LedgerError, match="not waited for"):
        ledger.collect(entry)


def test_many_join_a_pure_run_and_one_of_them_leaves(ledger: Ledger) -> None:
    entry = admit(ledger, make_candidate("add"))
    ledger.started(entry, 0.0)
    assert {ledger.claim(make_call("add"), 0.0).kind for _ in range(3)} == {"joined"}
    ledger.abandon(entry, 0.0)
    ledger.settled(entry, DONE, 1.0)
    assert [ledger.collect(entry), ledger.collect(entry)] == [DONE, DONE]


def test_a_joined_run_that_fails_is_run_by_the_caller(ledger: Ledger) -> None:
    entry = admit(ledger)
    ledger.started(entry, 0.0)
    ledger.claim(make_call(), 0.0)
    ledger.settled(entry, Outcome(content="", failure="crashed"), 1.0)
    assert ledger.collect(entry) is None


def test_a_joined_run_is_squashed_by_a_write_and_run_by_the_caller(ledger: Ledger) -> None:
    entry = admit(ledger)
    ledger.started(entry, 0.0)
    ledger.claim(make_call(), 0.0)
    footprint, squashed = ledger.begin_write(make_call("write"), ONE, 1.0)
    assert squashed == [entry]
    assert entry.executing
    assert ledger.executing() == [entry]
    ledger.settled(entry, Outcome(content="", failure="cancelled"), 2.0)
    assert entry.state == "squashed"
    assert ledger.collect(entry) is None
    assert ledger.executing() == []
    ledger.end_write(footprint, 3.0)


def test_a_client_that_leaves_gives_the_run_back(ledger: Ledger) -> None:
    entry = admit(ledger)
    ledger.started(entry, 0.0)
    ledger.claim(make_call(), 0.0)
    ledger.abandon(entry, 1.0)
    ledger.settled(entry, DONE, 2.0)
    assert ledger.claim(make_call(), 3.0).outcome == DONE


def test_a_result_nobody_collects_is_dropped(ledger: Ledger) -> None:
    entry = admit(ledger)
    ledger.started(entry, 0.0)
    ledger.claim(make_call(), 0.0)
    ledger.settled(entry, DONE, 1.0)
    ledger.abandon(entry, 1.0)
    assert entry.outcome is None


def test_a_queued_entry_is_promoted(ledger: Ledger) -> None:
    entry = admit(ledger)
    claim = ledger.claim(make_call(), 1.0)
    assert (claim.kind, claim.entry, entry.state, entry.why) == ("promoted", entry, "claimed", "promoted")
    assert ledger.queued() == []
    with pytest.raises(LedgerError, match="claimed and cannot become running"):
        ledger.started(entry, 2.0)


@pytest.mark.parametrize(
    "call",
    [
        make_call("read", {"path": "b"}),
        make_call("look", {"path": "a"}),
        make_call("read", {"path": "a"}, TWO),
        make_call("read", {"path": "a"}, tenant="blue"),
        make_call("read", {"path": "a"}, None),
        make_call("read", {"path": "a"}, None, "unheard of"),
        make_call("nonesuch", {"path": "a"}),
    ],
)
def test_only_an_exact_match_counts(ledger: Ledger, call: ToolCall) -> None:
    run(ledger, make_candidate("read", {"path": "a"}))
    assert ledger.claim(call, 0.0).kind == "miss"


def test_arguments_that_are_not_json_are_refused(ledger: Ledger) -> None:
    with pytest.raises(BadArguments):
        ledger.claim(make_call("read", {"x": float("inf")}), 0.0)
    with pytest.raises(BadArguments):
        ledger.admit(make_candidate("read", {"x": "\ud800"}), 0.0)


def test_a_call_without_session_belongs_to_the_one_that_announced_it(ledger: Ledger) -> None:
    run(ledger)
    ledger.announce(make_ready(), 0.0)
    claim = ledger.claim(make_call(session=None), 0.0)
    assert (claim.kind, claim.session) == ("reused", ONE)


def test_the_session_is_told_on_a_miss_too(ledger: Ledger) -> None:
    ledger.announce(make_ready("shell"), 0.0)
    claim = ledger.claim(make_call("shell", session=None), 0.0)
    assert (claim.kind, claim.session) == ("miss", ONE)
    ledger.returned(make_returned("shell"), 0.0)
    assert ledger.claim(make_call("shell", session=None), 0.0).session is None


def test_a_look_is_no_announcement(ledger: Ledger) -> None:
    run(ledger)
    ledger.announce(make_likely(), 0.0)
    assert ledger.claim(make_call(session=None), 0.0).kind == "miss"


def test_two_sessions_with_the_same_call_are_not_mixed_up(ledger: Ledger) -> None:
    run(ledger)
    ledger.announce(make_ready(), 0.0)
    ledger.announce(make_ready(session=TWO), 0.0)
    assert ledger.claim(make_call(session=None), 0.0).kind == "miss"
    assert ledger.claim(make_call(session=TWO), 0.0).kind == "miss"
    assert ledger.claim(make_call(session=None), 0.0).kind == "miss", "session two may try again"
    ledger.returned(make_returned("read", session=TWO), 0.0)
    assert ledger.claim(make_call(session=None), 0.0).kind == "reused"


def test_the_call_id_tells_two_sessions_apart(ledger: Ledger) -> None:
    run(ledger)
    ledger.announce(make_issued("c1"), 0.0)
    ledger.announce(make_ready(), 0.0)
    ledger.announce(make_ready(session=TWO), 0.0)
    ledger.announce(make_issued("c2", session=TWO), 0.0)
    assert ledger.claim(make_call(session=None, call_id="c2"), 0.0).session == TWO
    assert ledger.claim(make_call(session=None, call_id="c1"), 0.0).kind == "reused"


def test_an_id_that_two_sessions_use_says_nothing(ledger: Ledger) -> None:
    run(ledger)
    for session in (ONE, TWO):
        ledger.announce(make_ready(session=session), 0.0)
        ledger.announce(make_issued("read:0", session=session), 0.0)
    assert ledger.claim(make_call(session=None, call_id="read:0"), 0.0).kind == "miss"


def test_an_id_of_another_call_matches_nothing(ledger: Ledger) -> None:
    run(ledger)
    ledger.announce(make_ready(), 0.0)
    ledger.announce(make_ready("shell", TWO), 0.0)
    ledger.announce(make_issued("c2", "shell", TWO), 0.0)
    assert ledger.claim(make_call(session=None, call_id="c2"), 0.0).kind == "miss"


def test_a_pure_call_of_nobody_takes_the_best_of_its_tenant(ledger: Ledger) -> None:
    admit(ledger, make_candidate("add", session=ONE))
    run(ledger, make_candidate("add", session=TWO))
    assert ledger.claim(make_call("add", session=None, tenant="blue"), 0.0).kind == "miss"
    assert ledger.claim(make_call("add", session=None), 0.0).kind == "reused"


def test_parallel_calls_with_the_same_arguments_run_one_each(ledger: Ledger) -> None:
    ledger.announce(make_ready(index=0), 0.0)
    ledger.announce(make_ready(index=1), 0.0)
    run(ledger)
    assert [ledger.claim(make_call(session=None), 0.0).kind for _ in range(2)] == ["reused", "miss"]


def test_what_may_not_run_early_is_refused_with_a_reason(ledger: Ledger) -> None:
    for tool, words in {"commit": "staged", "odd": "staged", "shy": "not marked speculate", "web": "disclose"}.items():
        refusal = ledger.admit(make_candidate(tool), 0.0)
        assert isinstance(refusal, Refusal)
        assert refusal.reason == "policy"
        assert words in refusal.detail
    assert refused(ledger, make_candidate("nonesuch")) == "unknown tool"
    assert refused(ledger, make_candidate(probability=0.19)) == "improbable"
    assert refused(ledger, make_candidate(probability=float("nan"))) == "improbable"


def test_what_is_there_is_not_admitted_twice_but_takes_better_odds(ledger: Ledger) -> None:
    entry = admit(ledger, make_candidate(probability=0.4, source="pattern"))
    assert refused(ledger, make_candidate(probability=0.3)) == "present"
    assert (entry.probability, entry.source) == (0.4, "pattern")
    refusal = ledger.admit(make_candidate(probability=0.99), 0.0)
    assert isinstance(refusal, Refusal)
    assert refusal.entry is entry
    assert (entry.probability, entry.source) == (0.99, "stream")


def test_a_full_queue_keeps_the_better_ones(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_QUEUED", 3)
    monkeypatch.setattr(module, "MAX_QUEUED_PER_SESSION", 2)
    poor = admit(ledger, make_candidate(arguments={"n": 1}, probability=0.3))
    admit(ledger, make_candidate(arguments={"n": 2}, probability=0.6))
    assert refused(ledger, make_candidate(arguments={"n": 3}, probability=0.3)) == "no room"
    admit(ledger, make_candidate(arguments={"n": 4}, probability=0.5))
    assert (poor.state, poor.why) == ("expired", "no room")
    assert ledger.next_expiry() == 0.0
    assert ledger.expire(0.0) == [poor]
    admit(ledger, make_candidate(session=TWO, probability=0.4))
    assert refused(ledger, make_candidate(arguments={"n": 5}, session=TWO, probability=0.4)) == "no room"


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
