"""What runs before it is asked for: admitted, started, settled, called off."""

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Container, Coroutine, Iterable, Iterator, Mapping
from time import time
from typing import Any

import anyio
import msgspec

from sglang_paste.calls import Arguments, TenantId, ToolCall, call_key, canonical
from sglang_paste.config import Limits, Policy
from sglang_paste.errors import BadArguments, CallError, JournalError
from sglang_paste.execute.base import Outcome, Run
from sglang_paste.predict.base import Candidate
from sglang_paste.speculate.budget import to_preempt, to_supersede
from sglang_paste.speculate.entries import Entry, Refusal
from sglang_paste.speculate.journal import Disclosure, Journal
from sglang_paste.speculate.ledger import Ledger
from sglang_paste.speculate.outlook import Outlook
from sglang_paste.speculate.planner import Load, choose
from sglang_paste.speculate.record import Recorder
from sglang_paste.speculate.tools import Tools, with_inert

logger = logging.getLogger(__name__)

Spawn = Callable[[Coroutine[Any, Any, None]], None]
Clock = Callable[[], float]


class Early:
    """Carries out what the ledger and the planner decide.

    Without an engine nothing runs early: then this is a plain gateway. The desk says what it runs itself:
    `authoritative` counts its runs by tool, `asked` its calls by tenant and key. `engine_load` is what the engine said
    last, and `cores_load` what the cores of this process are, from 0 to 1.
    """

    def __init__(
        self,
        ledger: Ledger,
        tools: Tools,
        policies: Mapping[str, Policy],
        remote: Container[str],
        limits: Limits,
        journal: Journal,
        recorder: Recorder,
        spawn: Spawn,
        clock: Clock,
        engine_alive: Callable[[], bool],
        foresee: Callable[[ToolCall, str, float, float], list[Candidate]],
        outlook: Outlook,
        cores_load: Callable[[], float],
    ) -> None:
        self.engine_load = 0.0
        self.authoritative: Counter[str] = Counter()
        self.asked: Counter[tuple[TenantId, str]] = Counter()
        self._ledger = ledger
        self._tools = tools
        self._policies = policies
        self._remote = remote
        self._limits = limits
        self._journal = journal
        self._recorder = recorder
        self._metrics = recorder.metrics
        self._spawn = spawn
        self._clock = clock
        self._engine_alive = engine_alive
        self._foresee = foresee
        self._outlook = outlook
        self._cores_load = cores_load
        self._runs: dict[int, Run] = {}
        self._settled: dict[int, anyio.Event] = {}
        self._cancelling: set[int] = set()

    def offer(self, candidates: Iterable[Candidate]) -> None:
        """Admit what may run early, and start what pays."""
        for candidate in candidates:
            self._metrics.predictions.labels(candidate.source).inc()
            refused = self._refusal(candidate)
            if refused is None:
                self._metrics.admissions.labels(candidate.source).inc()
            else:
                self._metrics.refusals.labels(refused).inc()
            if refused in (None, "present") and candidate.source != "stream":
                self._outlook.next_call(candidate)
        self.plan()

    def plan(self) -> None:
        """Start what is worth running now."""
        with self._harmless():
            self._start_best()

    def _start_best(self) -> None:
        queued = self._ledger.queued()
        if not queued:
            return
        executing = self._ledger.executing()
        load = Load(engine=self.engine_load, cores=self._cores_load())
        chosen = choose(queued, executing, self.authoritative, self._policies, self._limits, load, self._remote)
        for entry in chosen:
            self._start(entry)
        left = [entry for entry in queued if entry not in chosen]
        superseded = to_supersede(left, (*executing, *chosen), self.authoritative, self._policies, self._limits)
        if superseded is not None:
            self._ledger.cancel(superseded, self._clock(), "superseded")
            self.drop([superseded])

    def make_room(self, tool: str) -> None:
        """Call off a speculative run where an authoritative call of `tool` would have to wait for it."""
        policy = self._policies.get(tool)
        with self._harmless():
            entry = policy and to_preempt(tool, policy, self._ledger.executing(), self.authoritative)
            if entry:
                if not entry.ended:
                    self._ledger.cancel(entry, self._clock(), "preempted")
                self.drop([entry])

    def key(self, tool: str, arguments: Arguments) -> str:
        """The key under which the ledger matches a call; raises BadArguments."""
        policy = self._policies.get(tool)
        return call_key(tool, arguments, policy.inert if policy else ())

    def join(self, entry: Entry) -> anyio.Event:
        """Somebody waits for a running entry: normal priority from now on. The event tells that it is settled."""
        self._recorder.early_claimed(entry, self._clock())
        self._runs[entry.id].promote()
        return self._settled[entry.id]

    def drop(self, ended: Iterable[Entry]) -> None:
        """Stop the tools of entries that ended, and count their ends."""
        for entry in ended:
            with self._harmless():
                self._drop(entry)

    def _drop(self, entry: Entry) -> None:
        if entry.state == "squashed":
            self._metrics.squashes.labels(entry.why).inc()
        if not entry.executing:
            self._recorder.early_ended(entry)
        elif entry.id in self._runs and entry.id not in self._cancelling:
            self._cancelling.add(entry.id)
            self._spawn(self._runs[entry.id].cancel())

    @contextlib.contextmanager
    def _harmless(self) -> Iterator[None]:
        """Authoritative calls pass through here: what goes wrong with speculative ones is not theirs."""
        try:
            yield
        except Exception:
            logger.exception("what runs early was not looked after")
            self._metrics.errors.labels("internal").inc()

    def give_up(self, why: str, belongs: Callable[[Entry], bool]) -> None:
        """Cancel what is queued or running for nobody."""
        pointless = [
            entry
            for entry in (*self._ledger.queued(), *self._ledger.executing())
            if not entry.ended and not entry.waiters and belongs(entry)
        ]
        for entry in pointless:
            self._ledger.cancel(entry, self._clock(), why)
        self.drop(pointless)

    def _refusal(self, candidate: Candidate) -> str | None:
        """Why a candidate is not queued; None where it now is."""
        if not self._engine_alive():
            return "no engine"
        if candidate.tool not in self._policies:
            return "unknown tool"
        try:
            if self.asked[candidate.tenant, self.key(candidate.tool, candidate.arguments)]:
                return "under way"
            arguments = with_inert(self._tools.tool(candidate.tool), candidate.arguments)
            self._tools.validate(candidate.tool, arguments)
            if self._tools.why_not_early(candidate.tool, arguments) is not None:
                return "policy"
            answer = self._ledger.admit(msgspec.structs.replace(candidate, arguments=arguments), self._clock())
        except CallError as error:
            return "bad arguments" if isinstance(error, BadArguments) else "unknown tool"
        return answer.reason if isinstance(answer, Refusal) else None

    def _start(self, entry: Entry) -> None:
        now = self._clock()
        call = ToolCall(tenant=entry.tenant, session=entry.session, tool=entry.tool, arguments=entry.arguments)
        try:
            if not self._may_leave(entry):
                return
            self._ledger.started(entry, now)
            self._recorder.early_started(entry, now)
            run = self._tools.launch(call, speculative=True)
        except Exception as error:
            logger.exception("a run of %s could not be started", entry.tool)
            if entry.executing:
                self._ledger.settled(entry, Outcome(content=str(error), failure="unavailable"), now)
            else:
                self._ledger.cancel(entry, now, "not started")
            self._recorder.early_ended(entry)
            return
        self._runs[entry.id] = run
        self._settled[entry.id] = anyio.Event()
        self._spawn(self._follow(entry, run))

    async def _follow(self, entry: Entry, run: Run) -> None:
        outcome = Outcome(content="the run was lost", failure="crashed")
        try:
            outcome = await run.wait()
        finally:
            now = self._clock()
            self._ledger.settled(entry, outcome, now)
            self._recorder.early_settled(entry, now)
            del self._runs[entry.id]
            self._cancelling.discard(entry.id)
            self._settled.pop(entry.id).set()
            if entry.ended:
                self._recorder.early_ended(entry)
        if entry.state == "ready":
            place = self._ledger.place(entry.tenant, entry.session, entry.key, None)
            self._outlook.known(entry.tenant, entry.session, place, outcome.content)
            self._look_ahead(entry, outcome)
        self.plan()

    def _look_ahead(self, entry: Entry, outcome: Outcome) -> None:
        """What the call may lead to can run before the call is made: its result is here."""
        call = ToolCall(tenant=entry.tenant, session=entry.session, tool=entry.tool, arguments=entry.arguments)
        left = max(entry.claimed_in - (self._clock() - entry.predicted_at), 0.0)
        self.offer(self._foresee(call, outcome.content, entry.probability, left))

    def _may_leave(self, entry: Entry) -> bool:
        """A call that is seen outside is in the disclosure log before it leaves."""
        if self._policies[entry.tool].observes == "local":
            return True
        disclosure = Disclosure(
            time=time(),
            tenant=entry.tenant,
            session=entry.session,
            tool=entry.tool,
            arguments=canonical(entry.arguments),
            source=entry.source,
            probability=entry.probability,
        )
        try:
            self._journal.disclose(disclosure)
        except JournalError as error:
            logger.error("%s", error)
            self._ledger.cancel(entry, self._clock(), "not disclosed")
            return False
        return True
