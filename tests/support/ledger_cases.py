"""What the ledger's cases are made of: policies, candidates, calls, announcements."""

from sglang_paste.calls import Arguments, SessionId, TenantId, ToolCall
from sglang_paste.config import Policy
from sglang_paste.events import CallIssued, CallLikely, CallReady, ToolReturned
from sglang_paste.execute.base import Outcome
from sglang_paste.predict.base import Candidate, RunTime, Source
from sglang_paste.speculate.entries import Entry, Refusal
from sglang_paste.speculate.ledger import Ledger

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
