"""The ledger and the journal under random use, against a model that only knows what happened in the world.

The model keeps the facts: who asked for what, when each run began and ended, when each cell of the world was written.
It judges every result that is handed out by these facts alone.
"""

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import hypothesis.strategies as st
import msgspec
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from ledger_world import (
    EARLY,
    LIMITS,
    NEXT_STATES,
    POLICIES,
    SESSIONS,
    TENANTS,
    Asked,
    Own,
    Spec,
    Write,
    cells,
    same_call,
)

from sglang_paste.calls import SessionId, TenantId, ToolCall
from sglang_paste.events import CallAborted, CallIssued, CallLikely, CallReady, ToolReturned
from sglang_paste.execute.base import Outcome
from sglang_paste.predict.base import Candidate, RunTime
from sglang_paste.speculate.budget import to_preempt
from sglang_paste.speculate.entries import Claim, Entry
from sglang_paste.speculate.journal import Journal
from sglang_paste.speculate.ledger import ENTRY_BYTES, Ledger
from sglang_paste.speculate.planner import Load, choose


class Machine(RuleBasedStateMachine):
    ledger_class: type[Ledger] = Ledger
    journal_class: type[Journal] = Journal
    folder: ClassVar[Path]  # one journal for all examples: call ids never repeat, and opening one takes milliseconds
    journal: ClassVar[Journal]
    examples: ClassVar[Iterator[int]] = itertools.count()
    seen: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.example = next(self.examples)  # only in call ids: what an example does must not depend on those before
        self.ids = itertools.count()
        self.now = 0
        self.writes: list[Write] = []
        self.history: list[Asked] = []
        self.start_up()

    @classmethod
    def open_journal(cls) -> None:
        if hasattr(cls, "journal"):
            cls.journal.close()
        cls.journal = cls.journal_class(cls.folder / "journal")

    def start_up(self) -> None:
        self.ledger = self.ledger_class(POLICIES, LIMITS)
        self.specs: dict[int, Spec] = {}
        self.announced: list[Asked] = []
        self.waiting: list[tuple[Asked, Entry]] = []
        self.own: list[Own] = []
        self.refused: list[Asked] = []

    @rule(
        what=st.sampled_from(("call is aborted", "their tool", "their tool", "session ends", "preempt", "time passes")),
        tenant=st.sampled_from(TENANTS),
        session=st.sampled_from(SESSIONS),
        tool=st.sampled_from(EARLY),
        seconds=st.sampled_from((5, 30, 61)),
    )
    def something_rare(self, what: str, tenant: str, session: str, tool: str, seconds: int) -> None:
        if what == "call is aborted":
            self.call_is_aborted(tenant, session, tool)
        elif what == "their tool":
            self.ran_a_tool_of_the_client(tenant, session)
        elif what == "session ends":
            self.session_ends(tenant, session)
        elif what == "preempt":
            self.preempt(tool)
        else:
            self.time_passes(seconds)

    # Rules: the engine

    @rule(
        tenant=st.sampled_from(TENANTS),
        session=st.sampled_from(SESSIONS),
        tool=st.sampled_from((*EARLY, *EARLY, "commit", "jot", "shell")),
        x=st.integers(0, 1),
        looked_like=st.none() | st.integers(0, 1),
        identified=st.sampled_from(("before", "after", "never", "same for all")),
        until=st.sampled_from(("announced", "queued", "running", "running", "ready", "ready")),
    )
    def call_is_ready(
        self, tenant: str, session: str, tool: str, x: int, looked_like: int | None, identified: str, until: str
    ) -> None:
        self.now += 1
        number = next(self.ids)
        call_id = {"never": None, "same for all": f"{tool}:{x}"}.get(identified, f"call_{self.example}_{number}")
        arguments = {"x": x, "note": number} if tool == "pure" else {"x": x}
        asked = Asked(tenant, session, tool, arguments, f"r{number}", 0, call_id)
        head = self.head(asked)
        if call_id and identified != "after":
            self.ledger.announce(CallIssued(**head, tool=tool, call_id=call_id), self.now)
        if looked_like is not None:
            text = f'{{"x": {looked_like}}}'
            self.ledger.announce(CallLikely(**head, tool=tool, arguments=text), self.now)
        text = msgspec.json.encode(arguments).decode()
        self.ledger.announce(CallReady(**head, tool=tool, arguments=text), self.now)
        if call_id and identified == "after":
            self.ledger.announce(CallIssued(**head, tool=tool, call_id=call_id), self.now)
        self.announced.append(asked)
        if until != "announced":
            self.bring(tenant, session, tool, x, until)

    def call_is_aborted(self, tenant: str, session: str, tool: str) -> None:
        self.now += 1
        asked = Asked(tenant, session, tool, {}, f"r{next(self.ids)}", 0, None)
        head = self.head(asked)
        self.ledger.announce(CallLikely(**head, tool=tool, arguments='{"x": 0}'), self.now)
        self.ledger.withdraw(CallAborted(**head, tool=tool, reason="length"), self.now)

    @precondition(lambda self: self.announced)
    @rule(data=st.data())
    def ran_elsewhere(self, data: st.DataObject) -> None:
        self.now += 1
        asked = data.draw(st.sampled_from(self.announced))
        self.announced.remove(asked)
        self.ran_without_us(asked)

    def ran_a_tool_of_the_client(self, tenant: str, session: str) -> None:
        self.now += 1
        self.ran_without_us(Asked(tenant, session, "theirs", {}, "r", 0, "theirs"))

    def session_ends(self, tenant: str, session: str) -> None:
        self.now += 1
        self.announced = [each for each in self.announced if (each.tenant, each.true_session) != (tenant, session)]
        self.ledger.end_session(TenantId(tenant), SessionId(session), self.now)

    # Rules: speculative runs

    @rule(
        tenant=st.sampled_from(TENANTS),
        session=st.sampled_from(SESSIONS),
        tool=st.sampled_from((*EARLY, "shell")),
        x=st.integers(0, 1),
        probability=st.sampled_from((0.05, 0.6, 0.9)),
        source=st.sampled_from(("stream", "pattern")),
    )
    def predict(self, tenant: str, session: str, tool: str, x: int, probability: float, source: Any) -> None:
        self.admit(tenant, session, tool, x, probability, source)

    def bring(self, tenant: str, session: str, tool: str, x: int, until: str) -> None:
        self.admit(tenant, session, tool, x, 0.9, "stream")
        self.lives_go_forward()
        if until != "queued":
            self.start(0.0)
            self.lives_go_forward()
        at_work = [spec for spec in self.specs.values() if self.is_at_work(spec)]
        if until == "ready" and at_work:
            self.now += 1
            self.settle_with(at_work[-1], Outcome(content=f"{at_work[-1].entry.id} at {self.now}"))

    def admit(self, tenant: str, session: str, tool: str, x: int, probability: float, source: Any) -> None:
        self.now += 1
        candidate = Candidate(
            tenant=TenantId(tenant),
            session=SessionId(session),
            tool=tool,
            arguments={"x": x, "note": "predicted"} if tool == "pure" else {"x": x},
            probability=probability,
            run_time=RunTime(p50=1.0, p90=2.0),
            claimed_in=1.0,
            source=source,
        )
        entry = self.ledger.admit(candidate, self.now)
        if isinstance(entry, Entry):
            assert tool in EARLY
            assert probability >= LIMITS.minimum_probability
            self.specs[entry.id] = Spec(entry)

    @rule(engine=st.sampled_from((0.0, 1.0)))
    def start(self, engine: float) -> None:
        self.now += 1
        own = Counter(each.asked.tool for each in self.own)
        chosen = choose(self.ledger.queued(), self.ledger.executing(), own, POLICIES, LIMITS, Load(engine=engine))
        for entry in chosen:
            self.ledger.started(entry, self.now)
            self.specs[entry.id].began = self.now
        at_work = [spec for spec in self.specs.values() if self.is_at_work(spec)]
        for tool in {entry.tool for entry in chosen}:
            assert own[tool] + sum(spec.entry.tool == tool for spec in at_work) <= POLICIES[tool].concurrency, (
                "over budget"
            )

    @precondition(lambda self: any(self.is_at_work(spec) for spec in self.specs.values()))
    @rule(data=st.data(), kind=st.sampled_from(("ok", "ok", "ok", "error", "failure")), large=st.booleans())
    def run_ends(self, data: st.DataObject, kind: str, large: bool) -> None:
        self.now += 1
        spec = data.draw(st.sampled_from([spec for spec in self.specs.values() if self.is_at_work(spec)]))
        content = f"{spec.entry.id} at {self.now}" + "x" * (ENTRY_BYTES * large)
        if kind == "failure":
            outcome = Outcome(content=content, failure="crashed")
        else:
            outcome = Outcome(content=content, is_error=kind == "error")
        self.settle_with(spec, outcome)

    def preempt(self, tool: str) -> None:
        self.now += 1
        own = Counter(each.asked.tool for each in self.own)
        entry = to_preempt(tool, POLICIES[tool], self.ledger.executing(), own)
        if entry is not None:
            assert not any(waited is entry for _, waited in self.waiting)
            self.ledger.cancel(entry, self.now, "authoritative first")

    def time_passes(self, seconds: int) -> None:
        self.now += seconds
        if seconds != 30:  # expiry may come late
            self.ledger.expire(self.now)

    # Rules: authoritative calls

    @precondition(lambda self: self.announced)
    @rule(data=st.data(), says_session=st.booleans(), says_id=st.booleans())
    def client_calls(self, data: st.DataObject, says_session: bool, says_id: bool) -> None:
        asked = data.draw(st.sampled_from(self.announced))
        self.announced.remove(asked)
        self.send(asked, says_session, says_id)

    @precondition(lambda self: self.specs)
    @rule(data=st.data(), session=st.none() | st.sampled_from(SESSIONS), x=st.none() | st.integers(0, 1))
    def client_calls_like_before(self, data: st.DataObject, session: str | None, x: int | None) -> None:
        entry = data.draw(st.sampled_from(list(self.specs.values()))).entry
        arguments = entry.arguments if x is None else {**entry.arguments, "x": x}
        self.send(Asked(entry.tenant, session or entry.session, entry.tool, arguments, "r", 0, None), True, False)

    @precondition(lambda self: self.history)
    @rule(data=st.data())
    def client_retries(self, data: st.DataObject) -> None:
        self.now += 1
        self.execute_or_replay(data.draw(st.sampled_from(self.history)))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def client_leaves(self, data: st.DataObject) -> None:
        self.now += 1
        asked, entry = data.draw(st.sampled_from(self.waiting))
        self.waiting.remove((asked, entry))
        self.ledger.abandon(entry, self.now)
        self.journal.release(self.sent(asked))
        asked.executions -= 1

    @precondition(lambda self: self.own)
    @rule(data=st.data())
    def own_run_ends(self, data: st.DataObject) -> None:
        self.now += 1
        run = data.draw(st.sampled_from(self.own))
        self.own.remove(run)
        self.ledger.end_write(run.footprint, self.now)
        if run.write:
            run.write.ended = self.now
        self.answer(run.asked, Outcome(content=f"own at {self.now}"))

    @precondition(lambda self: any(run.write for run in self.own))
    @rule(data=st.data())
    def own_write_comes_to_nothing(self, data: st.DataObject) -> None:
        self.now += 1
        run = data.draw(st.sampled_from([run for run in self.own if run.write]))
        self.own.remove(run)
        self.ledger.end_write(run.footprint, self.now)
        assert run.write is not None
        run.write.ended = self.now
        self.ledger.unmade(self.sent(run.asked))
        self.journal.release(self.sent(run.asked))
        run.asked.executions -= 1
        self.refused.append(run.asked)

    @precondition(lambda self: self.refused)
    @rule()
    def client_makes_it_itself(self) -> None:
        self.now += 1
        self.ran_without_us(self.refused.pop())

    @precondition(lambda self: self.own or self.waiting)
    @rule()
    def crash(self) -> None:
        self.now += 1
        self.open_journal()
        for write in self.writes:
            write.ended = write.ended or self.now
        self.start_up()

    # Invariants

    @invariant()
    def budget_holds(self) -> None:
        early = [spec.entry for spec in self.specs.values() if self.is_at_work(spec) and not spec.joined]
        assert len(early) <= LIMITS.speculative, "over budget"
        assert all(n <= LIMITS.per_tool for n in Counter(each.tool for each in early).values()), "over budget"
        sessions = Counter((each.tenant, each.session) for each in early)
        assert all(n <= LIMITS.per_session for n in sessions.values()), "over budget"

    @invariant()
    def results_are_bounded(self) -> None:
        kept = [spec.entry.outcome for spec in self.specs.values() if spec.entry.state == "ready"]
        assert sum(len(outcome.content) + ENTRY_BYTES for outcome in kept if outcome) <= LIMITS.results_bytes, (
            "too much kept"
        )

    @invariant()
    def lives_go_forward(self) -> None:
        for spec in self.specs.values():
            state = spec.entry.state
            if state != spec.last_state:
                allowed = NEXT_STATES.get(spec.last_state, set())
                evicted_at_once = (spec.last_state, state) == ("running", "expired") and spec.produced is not None
                assert state in allowed or evicted_at_once, (spec.last_state, state)
                spec.last_state = state

    def teardown(self) -> None:
        for spec in [spec for spec in self.specs.values() if self.is_at_work(spec)]:
            self.settle_with(spec, Outcome(content="late"))
        self.ledger.close(self.now)
        assert not self.ledger.executing()
        assert self.ledger.results_bytes == 0
        assert not self.waiting
        for spec in self.specs.values():
            assert spec.entry.state in ("claimed", "squashed", "expired", "failed", "cancelled"), "never ended"

    # Below: how the side process uses the ledger, and what the model makes of it

    def head(self, asked: Asked) -> dict[str, Any]:
        place = {"request": asked.request, "index": asked.index, "position": 0, "time": float(self.now)}
        return {"tenant": asked.tenant, "session": asked.true_session, **place}

    def live(self) -> list[Spec]:
        return [spec for spec in self.specs.values() if spec.entry.state in ("queued", "running", "ready")]

    def is_at_work(self, spec: Spec) -> bool:
        return spec.began is not None and spec.produced is None

    def sent(self, asked: Asked) -> ToolCall:
        assert asked.sent is not None
        return asked.sent

    def returned_event(self, asked: Asked) -> ToolReturned:
        head = self.head(asked)
        del head["index"]
        arguments = msgspec.json.encode(asked.arguments).decode()
        return ToolReturned(**head, tool=asked.tool, arguments=arguments, content="", call_id=asked.call_id or "none")

    def ran_without_us(self, asked: Asked) -> None:
        self.writes.append(Write(cells("write", asked.tool, asked.tenant, asked.true_session), self.now, self.now))
        self.ledger.returned(self.returned_event(asked), self.now)

    def send(self, asked: Asked, says_session: bool, says_id: bool) -> None:
        self.now += 1
        asked.sent = ToolCall(
            tenant=TenantId(asked.tenant),
            tool=asked.tool,
            arguments=asked.arguments,
            session=SessionId(asked.true_session) if says_session else None,
            # an id that is used again is good only together with its session
            call_id=asked.call_id if says_id and (says_session or ":" not in (asked.call_id or "")) else None,
        )
        if asked.sent.call_id and ":" in asked.sent.call_id:
            call_id = f"{asked.sent.call_id}:{self.example}:{asked.request}"
            asked.sent = msgspec.structs.replace(asked.sent, call_id=call_id)
        if asked.sent.call_id:
            self.history.append(asked)
        self.execute_or_replay(asked)

    def execute_or_replay(self, asked: Asked) -> None:
        call = self.sent(asked)
        begun = self.journal.begin(call)
        if begun.kind == "replay":
            assert begun.outcome == asked.answer
        if begun.kind != "fresh":
            assert asked.executions == 1
            return
        asked.executions += 1
        assert asked.executions == 1, "a call id ran twice"
        findable = [spec for spec in self.live() if self.must_be_found(asked, spec)]
        claim = self.ledger.claim(call, self.now)
        assert claim.kind != "miss" or not findable, "a live entry was missed"
        assert claim.session in (None, asked.true_session) or asked.tool == "pure", "taken for another session's"
        self.seen[claim.kind] += 1
        self.carry_out(asked, claim)

    def must_be_found(self, asked: Asked, spec: Spec) -> bool:
        free = spec.entry.state != "ready" or self.now - (spec.produced_at or 0) < LIMITS.result_ttl_s
        free = free and self.now < spec.entry.expires_at and not any(each is spec.entry for _, each in self.waiting)
        return free and self.sent(asked).session == spec.entry.session and same_call(asked, spec.entry)

    def carry_out(self, asked: Asked, claim: Claim) -> None:
        if claim.kind == "reused":
            assert claim.entry is not None
            assert claim.outcome is not None
            self.judge(asked, claim.entry, claim.outcome, self.now)
            self.answer(asked, claim.outcome)
        elif claim.kind == "joined":
            assert claim.entry is not None
            self.specs[claim.entry.id].joined = True
            self.waiting.append((asked, claim.entry))
        else:
            self.run_own(asked, claim.session)

    def run_own(self, asked: Asked, session: SessionId | None) -> None:
        footprint, _ = self.ledger.begin_write(self.sent(asked), session, self.now)
        touched = cells("write", asked.tool, asked.tenant, asked.true_session)
        write = Write(touched, self.now) if touched else None
        self.writes += [write] if write else []
        self.own.append(Own(asked, footprint, write))

    def settle_with(self, spec: Spec, outcome: Outcome) -> None:
        spec.produced, spec.produced_at = outcome, self.now
        self.ledger.settled(spec.entry, outcome, self.now)
        for asked, entry in [pair for pair in self.waiting if pair[1] is spec.entry]:
            self.waiting.remove((asked, entry))
            collected = self.ledger.collect(entry)
            if collected is None:
                self.seen["run after all"] += 1
                self.run_own(asked, SessionId(asked.true_session))
            else:
                self.judge(asked, entry, collected, self.now)
                self.answer(asked, collected)

    def answer(self, asked: Asked, outcome: Outcome) -> None:
        asked.answer = outcome
        self.journal.finish(self.sent(asked), outcome)
        if int(asked.request[1:] or 1) % 2 == 0:  # the other half of the sessions never comes back
            self.ledger.returned(self.returned_event(asked), self.now)

    def judge(self, asked: Asked, entry: Entry, outcome: Outcome, at: int) -> None:
        """Whether this result may be handed out for this call."""
        spec = self.specs[entry.id]
        assert spec.began is not None
        assert outcome == spec.produced, "not what the run came to"
        assert outcome.failure is None
        assert same_call(asked, entry), "another call's result"
        if asked.tool == "pure":
            assert at - (spec.produced_at or 0) < LIMITS.result_ttl_s, "too old"
            return
        assert entry.session == asked.true_session, "another session's result"
        spec.hand_outs += 1
        assert spec.hand_outs == 1, "handed out twice"
        reads = cells("read", entry.tool, entry.tenant, entry.session)
        for write in self.writes:
            apart = (write.ended is not None and write.ended < spec.began) or write.began > at
            assert apart or not reads & write.cells, "read beside a write"


# The broken ones, each in one way
