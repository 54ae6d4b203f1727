"""What is counted and drawn: metrics and spans of turns, calls and speculative runs."""

from typing import TypeVar

from sglang_paste.calls import SessionId, ToolCall, canonical
from sglang_paste.events import CallReady, EngineEvent, TurnEnded, TurnStarted
from sglang_paste.execute.base import Outcome
from sglang_paste.gateway.api import How
from sglang_paste.observe.metrics import Metrics
from sglang_paste.observe.spans import MAX_SPANS, Mark, Span, Spans
from sglang_paste.speculate.entries import Entry

K = TypeVar("K")
Turn = tuple[str, str, str]  # tenant, session, request


class Recorder:
    """Turns what happens into metrics and spans. Nothing depends on it."""

    def __init__(self, metrics: Metrics, spans: Spans) -> None:
        self.metrics = metrics
        self.spans = spans
        self._turns: dict[Turn, int] = {}
        self._numbers: dict[tuple[str, str], int] = {}
        self._runs: dict[int, int] = {}

    def event(self, event: EngineEvent) -> None:
        """An event of the engine; those of a turn make a span of the model's lane."""
        self.metrics.events.labels(type(event).__name__).inc()
        turn = (event.tenant, event.session, event.request)
        if isinstance(event, TurnStarted):
            self._turns[turn] = self.spans.open(
                Span(
                    tenant=event.tenant,
                    session=event.session,
                    lane="model",
                    name="turn",
                    detail=f"turn {self._number(event)}",
                    start=event.time,
                    request=event.request,
                )
            )
            _bound(self._turns)
        elif isinstance(event, CallReady) and turn in self._turns:
            self.spans.mark(self._turns[turn], Mark(time=event.time, name="call ready"))
        elif isinstance(event, TurnEnded) and turn in self._turns:
            self.spans.close(self._turns.pop(turn), end=event.time, outcome=event.reason)

    def _number(self, event: TurnStarted) -> int:
        """The how-manieth turn of its session this is."""
        session = (event.tenant, event.session)
        number = self._numbers.pop(session, 0) + 1
        self._numbers[session] = number
        _bound(self._numbers)
        return number

    def answered(
        self, call: ToolCall, session: SessionId | None, how: How, outcome: Outcome, asked: float, now: float
    ) -> None:
        """An authoritative call has its answer."""
        tool = self.metrics.tool(call.tool)
        self.metrics.calls.labels(tool, how).inc()
        self.metrics.waits.labels(how).observe(now - asked)
        if how in ("run", "promoted"):
            self.metrics.durations.labels(tool).observe(outcome.duration)
        self.spans.add(
            Span(
                tenant=call.tenant,
                session=session or SessionId(""),
                lane="tool",
                name=call.tool,
                detail=canonical(call.arguments),
                start=asked,
                end=now,
                outcome=outcome.failure or how,
            )
        )

    def early_started(self, entry: Entry, now: float) -> None:
        """A speculative run begins."""
        self.metrics.runs.labels(self.metrics.tool(entry.tool), "speculative").inc()
        self._runs[entry.id] = self.spans.open(
            Span(
                tenant=entry.tenant,
                session=entry.session,
                lane="speculative",
                name=entry.tool,
                detail=canonical(entry.arguments),
                start=now,
                probability=entry.probability,
                source=entry.source,
            )
        )

    def early_settled(self, entry: Entry, now: float) -> None:
        """A speculative run is over; what becomes of its result is still open."""
        if entry.id in self._runs:
            self.spans.update(self._runs[entry.id], end=now, outcome=entry.state)
        self.metrics.durations.labels(self.metrics.tool(entry.tool)).observe(_ran(entry))

    def early_claimed(self, entry: Entry, now: float) -> None:
        """Somebody asked for a speculative run's result."""
        if entry.id in self._runs:
            self.spans.mark(self._runs[entry.id], Mark(time=now, name="claimed"))

    def early_ended(self, entry: Entry) -> None:
        """An entry that ran has its end, and its tool is gone. Counts once."""
        number = self._runs.pop(entry.id, None)
        if number is None:
            return
        tool = self.metrics.tool(entry.tool)
        self.metrics.ends.labels(tool, entry.state).inc()
        if entry.state != "claimed":
            self.metrics.wasted.labels(tool).inc()
            self.metrics.wasted_seconds.inc(_ran(entry))
        end = entry.settled_at if entry.settled_at is not None else entry.ended_at
        self.spans.close(number, end=end or 0.0, outcome=entry.state)

    def replayed(self, call: ToolCall) -> None:
        """A call id came again after its call had run."""
        self.metrics.calls.labels(self.metrics.tool(call.tool), "replayed").inc()


def _bound(entries: dict[K, int]) -> None:
    """Forget the oldest where there are too many."""
    if len(entries) > MAX_SPANS:
        del entries[next(iter(entries))]


def _ran(entry: Entry) -> float:
    if entry.started_at is None or entry.settled_at is None:
        return 0.0
    return max(0.0, entry.settled_at - entry.started_at)
