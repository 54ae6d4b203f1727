"""Candidates from the stream: a call that is ready is nearly a fact, one that is likely becomes one or not."""

import json
import time
from collections.abc import Callable, Mapping
from typing import Annotated

import msgspec

from sglang_paste.calls import Arguments, SessionId, TenantId, ToolCall, call_key, parse_arguments
from sglang_paste.errors import BadArguments
from sglang_paste.events import CallAborted, CallLikely, CallReady, Event, SessionEnded, TurnEnded, TurnStarted
from sglang_paste.predict.base import Candidate, RunTime, ToolShape
from sglang_paste.predict.learn import Bounded, Samples, Share

MAX_SESSIONS = 2048
MAX_TOOLS = 4096
MAX_PRESENT = 16
_PENDING = 64
_DEFAULT_RUN = RunTime(p50=0.5, p90=2.0)
_DEFAULT_CLOSE = 0.1
_DEFAULT_CLAIM = 0.2

ToolKey = tuple[TenantId, str]
SessionKey = tuple[TenantId, SessionId]


class ToolRecord(msgspec.Struct):
    """What a tenant's calls of one tool have taught.

    `claimed` is the share of ready calls that the client asked for; `equal` the share of likely calls that the
    ready one equalled, by the names of the arguments that were there. Durations in seconds.
    """

    claimed: Share = msgspec.field(default_factory=lambda: Share(9.8, 0.2))
    equal: Annotated[dict[str, Share], msgspec.Meta(max_length=MAX_PRESENT)] = msgspec.field(default_factory=dict)
    runs: Samples = msgspec.field(default_factory=Samples)
    likely_to_ready: Samples = msgspec.field(default_factory=Samples)
    ready_to_claim: Samples = msgspec.field(default_factory=Samples)

    def run_time(self) -> RunTime:
        """The median and the 90 % quantile of the last runs."""
        return RunTime(p50=self.runs.quantile(0.5, _DEFAULT_RUN.p50), p90=self.runs.quantile(0.9, _DEFAULT_RUN.p90))


class _Likely(msgspec.Struct, frozen=True):
    request: str
    index: int
    tool: str
    present: str
    key: str
    time: float


class _Ready(msgspec.Struct, frozen=True):
    turn: int
    tool: str
    key: str
    time: float


class _Session:
    def __init__(self) -> None:
        self.turn = 0
        self.likely: list[_Likely] = []
        self.ready: list[_Ready] = []


class StreamPredictor:
    """Learns which announced calls are really claimed, and when; bounded in sessions and tools.

    `records` (an empty one where absent) is what is kept over a restart, and `changed` hears of each record that
    was learned from.
    """

    def __init__(
        self,
        shapes: Mapping[str, ToolShape] | None = None,
        *,
        records: Bounded[ToolKey, ToolRecord] | None = None,
        changed: Callable[[ToolKey], None] = lambda key: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shapes = {} if shapes is None else shapes
        self._records: Bounded[ToolKey, ToolRecord] = Bounded(MAX_TOOLS) if records is None else records
        self._changed = changed
        self._clock = clock
        self._sessions: Bounded[SessionKey, _Session] = Bounded(MAX_SESSIONS, self._forget)

    def run_time(self, tenant: TenantId, tool: str) -> RunTime:
        """How long the tool takes for this tenant, or a guess where it never ran."""
        record = self._records.get((tenant, tool))
        return _DEFAULT_RUN if record is None else record.run_time()

    def observe(self, event: Event) -> list[Candidate]:
        """A candidate for each likely and each ready call."""
        key = (event.tenant, event.session)
        if isinstance(event, SessionEnded):
            session = self._sessions.pop(key)
            if session is not None:
                self._forget(key, session)
            return []
        session = self._sessions.use(key, _Session)
        if isinstance(event, CallLikely):
            return self._likely(key, session, event)
        if isinstance(event, CallReady):
            return self._ready(key, session, event)
        if isinstance(event, CallAborted):
            self._settle(key, session, event.request, event.index, None, event.time)
        elif isinstance(event, TurnStarted):
            session.turn += 1
        elif isinstance(event, TurnEnded):
            self._settle(key, session, event.request, None, None, event.time)
            self._unclaimed(key, session, session.turn)
        return []

    def confirm(
        self, call: ToolCall, content: str, duration: float, *, ok: bool, asked: float | None = None
    ) -> list[Candidate]:
        """Learn the run time, and that the announced call was claimed; never a candidate."""
        record = self._record((call.tenant, call.tool))
        record.runs.add(duration)
        session = None if call.session is None else self._sessions.get((call.tenant, call.session))
        if session is not None:
            digest = self._digest(call.tool, call.arguments)
            for ready in session.ready:
                if ready.key == digest:
                    session.ready.remove(ready)
                    record.claimed.update(True, surprise=1e-6)
                    record.ready_to_claim.add((self._clock() if asked is None else asked) - ready.time)
                    break
        self._changed((call.tenant, call.tool))
        return []

    def _likely(self, key: SessionKey, session: _Session, event: CallLikely) -> list[Candidate]:
        arguments = _parsed(event.arguments)
        digest = None if arguments is None else self._digest(event.tool, arguments)
        if arguments is None or digest is None:
            return []
        present = self._present(event.tool, arguments)
        seen = _Likely(event.request, event.index, event.tool, present, digest, event.time)
        session.likely = [*session.likely[1 - _PENDING :], seen]
        record = self._record((event.tenant, event.tool))
        equal = record.equal.get(present) or self._prior(event.tool, arguments)
        close = record.likely_to_ready.quantile(0.5, _DEFAULT_CLOSE)
        delay = close + record.ready_to_claim.quantile(0.5, _DEFAULT_CLAIM)
        return [_candidate(event, arguments, equal.probability * record.claimed.probability, record, delay)]

    def _ready(self, key: SessionKey, session: _Session, event: CallReady) -> list[Candidate]:
        arguments = _parsed(event.arguments)
        digest = None if arguments is None else self._digest(event.tool, arguments)
        self._settle(key, session, event.request, event.index, digest, event.time)
        if arguments is None or digest is None:
            return []
        session.ready = [*session.ready[1 - _PENDING :], _Ready(session.turn, event.tool, digest, event.time)]
        record = self._record((event.tenant, event.tool))
        delay = record.ready_to_claim.quantile(0.5, _DEFAULT_CLAIM)
        return [_candidate(event, arguments, record.claimed.probability, record, delay)]

    def _settle(
        self, key: SessionKey, session: _Session, request: str, index: int | None, final: str | None, now: float
    ) -> None:
        """Judge the likely calls of a call (of the whole request, without an index) by what became of it."""
        kept = []
        for likely in session.likely:
            if likely.request != request or (index is not None and likely.index != index):
                kept.append(likely)
                continue
            record = self._record((key[0], likely.tool))
            if likely.present not in record.equal:
                while len(record.equal) >= MAX_PRESENT:
                    del record.equal[next(iter(record.equal))]
                record.equal[likely.present] = self._prior(likely.tool, json.loads(likely.present))
            record.equal[likely.present].update(likely.key == final)
            if final is not None:
                record.likely_to_ready.add(now - likely.time)
            self._changed((key[0], likely.tool))
        session.likely = kept

    def _unclaimed(self, key: SessionKey, session: _Session, before: int) -> None:
        """Calls of earlier turns that nobody asked for: the client ran them by itself, or dropped them."""
        for ready in session.ready:
            if ready.turn < before:
                self._record((key[0], ready.tool)).claimed.update(False, surprise=1e-6)
                self._changed((key[0], ready.tool))
        session.ready = [ready for ready in session.ready if ready.turn >= before]

    def _forget(self, key: SessionKey, session: _Session) -> None:
        self._unclaimed(key, session, session.turn + 1)

    def _record(self, key: ToolKey) -> ToolRecord:
        return self._records.use(key, ToolRecord)

    def _inert(self, tool: str) -> tuple[str, ...]:
        return self._shapes[tool].inert if tool in self._shapes else ()

    def _digest(self, tool: str, arguments: Arguments) -> str | None:
        try:
            return call_key(tool, arguments, self._inert(tool))
        except BadArguments:
            return None

    def _present(self, tool: str, arguments: Arguments) -> str:
        names = [name[:64] for name in sorted(arguments) if name not in self._inert(tool)]
        return json.dumps(names[:MAX_PRESENT], ensure_ascii=True)

    def _prior(self, tool: str, present: Mapping[str, object] | list[str]) -> Share:
        """Nothing is missing where every argument of the schema is there: then only a value could be unknown."""
        shape = self._shapes.get(tool)
        complete = shape is not None and all(name in present or name in shape.inert for name in shape.arguments)
        return Share(1.9, 0.1) if complete else Share(1.0, 1.0)


def _candidate(
    event: CallLikely | CallReady, arguments: Arguments, probability: float, record: ToolRecord, delay: float
) -> Candidate:
    return Candidate(
        tenant=event.tenant,
        session=event.session,
        tool=event.tool,
        arguments=arguments,
        probability=probability,
        run_time=record.run_time(),
        claimed_in=delay,
        source="stream",
    )


def _parsed(text: str) -> Arguments | None:
    try:
        return parse_arguments(text)
    except BadArguments:
        return None
