"""The ledger, case by case: what a claim finds."""

import msgspec
import pytest
from ledger_cases import (
    DONE,
    ONE,
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

from sglang_paste.calls import ToolCall
from sglang_paste.errors import BadArguments, LedgerError
from sglang_paste.execute.base import Outcome
from sglang_paste.speculate import ledger as module
from sglang_paste.speculate.entries import Refusal
from sglang_paste.speculate.ledger import Ledger


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
    assert refused(ledger, make_candidate(probability=0.09)) == "improbable"
    assert refused(ledger, make_candidate(probability=float("nan"))) == "improbable"


def test_what_is_there_is_not_admitted_twice_but_takes_better_odds(ledger: Ledger) -> None:
    entry = admit(ledger, make_candidate(probability=0.4, source="pattern"))
    assert refused(ledger, make_candidate(probability=0.3)) == "present"
    assert (entry.probability, entry.source) == (0.4, "pattern")
    refusal = ledger.admit(make_candidate(probability=0.99), 0.0)
    assert isinstance(refusal, Refusal)
    assert refusal.entry is entry
    assert (entry.probability, entry.source) == (0.99, "stream")


def test_of_equal_odds_the_newer_hold_with_the_time_they_count_from(ledger: Ledger) -> None:
    entry = admit(ledger)
    for longer, when in ((5.0, 2.0), (3.0, 4.0)):
        ledger.admit(msgspec.structs.replace(make_candidate(), claimed_in=longer), when)
        assert (entry.claimed_in, entry.predicted_at) == (longer, when)
    ledger.admit(msgspec.structs.replace(make_candidate(probability=0.5), claimed_in=9.0), 5.0)
    assert (entry.claimed_in, entry.predicted_at) == (3.0, 4.0)


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
