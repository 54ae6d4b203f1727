"""Where authoritative calls are answered: replayed, reused, joined, or run, each call id at most once."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Protocol

import anyio
import anyio.lowlevel
import msgspec

from sglang_paste.calls import TenantId, ToolCall
from sglang_paste.config import Policy
from sglang_paste.errors import CallError, JournalError, OutcomeUnknown, Unavailable
from sglang_paste.execute.base import Outcome, Run
from sglang_paste.gateway.api import Answer, Health, How, Offer, Ticket
from sglang_paste.observe.spans import Span
from sglang_paste.policy import does_write, policy_of
from sglang_paste.predict.base import Candidate, RunTime
from sglang_paste.speculate.early import Clock, Early, Spawn
from sglang_paste.speculate.entries import Claim, Entry
from sglang_paste.speculate.flights import STOPPING, Flight, Seat, Settled
from sglang_paste.speculate.journal import Begun, Journal
from sglang_paste.speculate.ledger import Ledger
from sglang_paste.speculate.outlook import Outlook
from sglang_paste.speculate.record import Recorder
from sglang_paste.speculate.tools import Tools

logger = logging.getLogger(__name__)


class Learner(Protocol):
    """What the desk tells of the calls that were really made."""

    def confirm(
        self, call: ToolCall, content: str, duration: float, *, ok: bool, asked: float | None = None
    ) -> list[Candidate]:
        """As predict.base.Predictor.confirm."""

    def under_way(self, call: ToolCall) -> list[Candidate]:
        """What may follow a call that was made, before its result is there."""

    def run_time(self, tenant: TenantId, tool: str) -> RunTime:
        """How long the tool takes for this tenant."""


class _NotStarted(Exception):
    """A run did not begin: only then may its call id be used again."""

    def __init__(self, error: CallError) -> None:
        super().__init__(str(error))
        self.error = error


class ToolDesk:
    """gateway.api.Desk over the ledger, the journal and the tools. For one event loop."""

    def __init__(
        self,
        tools: Tools,
        ledger: Ledger,
        journal: Journal,
        early: Early,
        learner: Learner,
        recorder: Recorder,
        spawn: Spawn,
        clock: Clock,
        engine_alive: Callable[[], bool],
        outlook: Outlook,
    ) -> None:
        self.stopping = False
        self._tools = tools
        self._ledger = ledger
        self._journal = journal
        self._early = early
        self._learner = learner
        self._recorder = recorder
        self._metrics = recorder.metrics
        self._spawn = spawn
        self._clock = clock
        self._engine_alive = engine_alive
        self._outlook = outlook
        self._flights: dict[int, Flight] = {}
        self._airborne: set[Flight] = set()

    def call(self, call: ToolCall) -> Ticket:
        """Accept a call; raises CallError where it cannot be run as asked."""
        asked = self._clock()
        if self.stopping:
            raise Unavailable(STOPPING)
        self._tools.validate(call.tool, call.arguments)
        begun = self._begin(call)
        if begun.kind == "replay" and begun.outcome is not None:
            self._recorder.replayed(call)
            return Settled(Answer(outcome=begun.outcome, how="replayed", waited=0.0))
        if begun.kind != "fresh":
            return Seat(self._same_flight(call, begun), asked, first=False)
        try:
            claim = self._ledger.claim(call, asked)
            if claim.entry is None or claim.outcome is None:
                return self._take_off(call, begun.id, claim, asked)
        except BaseException:
            # It did not come to an execution, so the id is free again.
            self._journal.release(call)
            self._ledger.unmade(call)
            raise
        return self._reuse(call, claim, claim.entry, claim.outcome, asked)

    def offers(self) -> list[Offer]:
        """The configured tools."""
        return [
            Offer(
                name=tool.name,
                description=tool.description,
                parameters=tool.parameters,
                effect=tool.policy.effect,
                may_run_early=(why_not := self._tools.why_not_early(tool.name)) is None,
                why_not=why_not,
            )
            for tool in self._tools.tools()
        ]

    def refused(self, kind: str) -> None:
        """Count a request that was answered with an error."""
        self._metrics.errors.labels(kind).inc()

    def spans(self, tenant: TenantId) -> list[Span]:
        """The tenant's recent spans."""
        return self._recorder.spans.of(tenant)

    def health(self) -> Health:
        """The state to be shown."""
        return Health(
            status="stopping" if self.stopping else "ok",
            engine_alive=self._engine_alive(),
            tools=len(self._tools.tools()),
        )

    def metrics(self) -> bytes:
        """Everything in Prometheus's text format."""
        return self._metrics.text()

    async def close(self, grace: float) -> None:
        """Take no more calls; those under way get `grace` seconds, then they are cancelled."""
        self.stopping = True
        with anyio.move_on_after(grace):
            await self._drained()
        for flight in self._airborne:
            flight.scope.cancel()
        with anyio.move_on_after(grace):
            await self._drained()

    async def _drained(self) -> None:
        while self._airborne:
            await next(iter(self._airborne)).landing()
            await anyio.lowlevel.checkpoint()

    def _begin(self, call: ToolCall) -> Begun:
        try:
            return self._journal.begin(call)
        except JournalError as error:
            raise Unavailable(str(error)) from error

    def _same_flight(self, call: ToolCall, begun: Begun) -> Flight:
        """The execution that a call id belongs to, where it is still under way."""
        flight = self._flights.get(begun.id)
        if flight is None:
            raise OutcomeUnknown(
                f"the call {call.call_id!r} was begun and never finished, so nobody can say whether it took effect; "
                "look at what it would have changed, and use a new call id to make it again"
            )
        return flight

    def _reuse(self, call: ToolCall, claim: Claim, entry: Entry, outcome: Outcome, asked: float) -> Settled:
        now = self._clock()
        self._recorder.early_claimed(entry, now)
        self._early.drop([entry])
        self._close(call, outcome)
        self._foretell(call, claim, outcome)
        self._spawn(self._learn(call, claim, outcome, asked))
        self._recorder.answered(call, claim.session, "reused", outcome, asked, now)
        return Settled(Answer(outcome=outcome, how="reused", waited=now - asked))

    def _take_off(self, call: ToolCall, number: int, claim: Claim, asked: float) -> Seat:
        abandonable = call.call_id is None and not does_write(self._policy(call))
        flight = Flight(call, claim.session, asked, abandonable=abandonable)
        if number:
            self._flights[number] = flight
        settled = self._early.join(claim.entry) if claim.kind == "joined" and claim.entry else None
        self._airborne.add(flight)
        self._spawn(self._fly(flight, number, claim, settled))
        return Seat(flight, asked, first=True)

    def _policy(self, call: ToolCall) -> Policy:
        return policy_of(self._tools.tool(call.tool).policy, call.arguments)

    async def _fly(self, flight: Flight, number: int, claim: Claim, settled: anyio.Event | None) -> None:
        call = flight.call
        run = 0
        made = False
        try:
            run = self._begin_wait(flight, claim)
            with flight.scope:
                outcome, how = await self._outcome(call, claim, settled)
                made = outcome.failure is None
                self._close(call, outcome)
                self._foretell(call, claim, outcome)
                now = self._clock()
                self._recorder.answered(call, claim.session, how, outcome, flight.asked, now)
                flight.land((outcome, how), now)
        except _NotStarted as not_started:
            # The tool went away between the look at it and its start.
            self._close(call, Outcome(content=str(not_started.error), failure="unavailable"))
            flight.land(not_started.error, self._clock())
            return
        finally:
            if not made:
                self._ledger.unmade(call)
            self._outlook.ended(call.tenant, claim.session, run)
            flight.crash(self._clock(), stopping=self.stopping)
            self._flights.pop(number, None)
            self._airborne.discard(flight)
        if not flight.scope.cancelled_caught:
            await self._learn(call, claim, outcome, flight.asked)

    async def _outcome(self, call: ToolCall, claim: Claim, settled: anyio.Event | None) -> tuple[Outcome, How]:
        """Join what runs already; else, or where that came to nothing, run the tool."""
        if settled is not None and claim.entry is not None:
            self._spawn(self._look_ahead(call, claim))
            joined = await self._joined(claim.entry, settled)
            if joined is not None:
                return joined, "joined"
        return await self._run(call, claim), "promoted" if claim.kind == "promoted" else "run"

    async def _joined(self, entry: Entry, settled: anyio.Event) -> Outcome | None:
        try:
            await settled.wait()
        except BaseException:
            self._ledger.abandon(entry, self._clock())
            self._drop_ended([entry])
            raise
        outcome = self._ledger.collect(entry)
        self._drop_ended([entry])
        return outcome

    async def _run(self, call: ToolCall, claim: Claim) -> Outcome:
        footprint, squashed = self._ledger.begin_write(call, claim.session, self._clock())
        self._early.drop(squashed)
        self._early.make_room(call.tool)
        self._early.authoritative[call.tool] += 1
        asked = (call.tenant, self._early.key(call.tool, call.arguments))
        self._early.asked[asked] += 1
        self._metrics.runs.labels(self._metrics.tool(call.tool), "authoritative").inc()
        try:
            run = self._launch(msgspec.structs.replace(call, session=claim.session))
            self._spawn(self._look_ahead(call, claim))
            try:
                return await run.wait()
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await run.cancel()
                raise
        finally:
            self._early.authoritative -= Counter([call.tool])
            self._early.asked -= Counter([asked])
            self._early.drop(self._ledger.end_write(footprint, self._clock()))
            self._early.plan()

    def _launch(self, call: ToolCall) -> Run:
        try:
            return self._tools.launch(call, speculative=False)
        except CallError as error:
            raise _NotStarted(error) from error

    async def _look_ahead(self, call: ToolCall, claim: Claim) -> None:
        """What follows can run beside it, where it does not need its result."""
        await anyio.lowlevel.checkpoint()
        self._early.offer(self._learner.under_way(msgspec.structs.replace(call, session=claim.session)))

    def _close(self, call: ToolCall, outcome: Outcome) -> None:
        """Keep the result for a retry before anybody sees it. A call that never started may be made again; of one that
        was cut short nobody knows what it did, and its id stays begun."""
        try:
            if outcome.failure == "unavailable":
                self._journal.release(call)
            elif outcome.failure != "cancelled":
                self._journal.finish(call, outcome)
        except JournalError as error:
            logger.error("%s", error)
            self.refused("journal")

    def _begin_wait(self, flight: Flight, claim: Claim) -> int:
        """The session waits for a tool from now on, one that may have run for a while."""
        since = claim.entry.started_at if claim.kind == "joined" and claim.entry else None
        expected = self._learner.run_time(flight.call.tenant, flight.call.tool)
        return self._outlook.began(flight.call.tenant, claim.session, expected, since or flight.asked)

    def _foretell(self, call: ToolCall, claim: Claim, outcome: Outcome) -> None:
        """The client has the result in a moment, and the session is back with it in another."""
        if claim.session is not None and outcome.failure is None:
            key = self._early.key(call.tool, call.arguments)
            place = self._ledger.place(call.tenant, claim.session, key, call.call_id)
            self._outlook.known(call.tenant, claim.session, place, outcome.content)

    async def _learn(self, call: ToolCall, claim: Claim, outcome: Outcome, asked: float) -> None:
        if outcome.failure in ("cancelled", "unavailable"):
            return
        known = msgspec.structs.replace(call, session=claim.session)
        try:
            self._journal.record(known, outcome, self._clock() - asked)
        except JournalError as error:
            logger.error("%s", error)
            self.refused("journal")
        ok = outcome.failure is None and not outcome.is_error
        self._early.offer(self._learner.confirm(known, outcome.content, outcome.duration, ok=ok, asked=asked))

    def _drop_ended(self, entries: Iterable[Entry]) -> None:
        self._early.drop(entry for entry in entries if entry.ended)
