"""What happened when, in three lanes: the model's turns, the client's calls, and what ran early."""

from collections import deque
from typing import Literal

import msgspec

from sglang_paste.calls import SessionId, TenantId

Lane = Literal["model", "tool", "speculative"]

MAX_SPANS = 4096
MAX_MARKS = 64
MAX_DETAIL_CHARS = 200


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """A moment within a span, in CLOCK_MONOTONIC seconds."""

    time: float
    name: Literal["call ready", "claimed"]


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of time in CLOCK_MONOTONIC seconds; `end` is None while it is open.

    `name` is the tool's name or "turn"; `session` is empty where the caller did not say. `outcome` is how it ended: for
    "model" the reason the turn stopped, for "tool" how the call was answered (its span is what the client waited),
    for "speculative" the end of the entry; of one, `probability` and `source` say what it was begun for.
    """

    tenant: TenantId
    session: SessionId
    lane: Lane
    name: str
    detail: str
    start: float
    end: float | None = None
    outcome: str = "running"
    request: str = ""
    probability: float | None = None
    source: str = ""
    marks: tuple[Mark, ...] = ()


class Spans:
    """The newest spans, bounded. An open span is named by the number `open` gave it."""

    def __init__(self, limit: int = MAX_SPANS) -> None:
        self._limit = limit
        self._next = 0
        self._open: dict[int, Span] = {}
        self._closed: deque[Span] = deque(maxlen=limit)

    def open(self, span: Span) -> int:
        """Begin a span. Where too many are open, the oldest is let go."""
        number = self._next
        self._next += 1
        self._open[number] = _cut(span)
        if len(self._open) > self._limit:
            del self._open[next(iter(self._open))]
        return number

    def mark(self, number: int, mark: Mark) -> None:
        """Add a moment to an open span; nothing where the span is gone or full."""
        span = self._open.get(number)
        if span is not None and len(span.marks) < MAX_MARKS:
            self._open[number] = msgspec.structs.replace(span, marks=(*span.marks, mark))

    def update(self, number: int, *, end: float, outcome: str) -> None:
        """Its work is over, but not what comes of it; nothing where the span is gone."""
        span = self._open.get(number)
        if span is not None:
            self._open[number] = msgspec.structs.replace(span, end=end, outcome=outcome)

    def close(self, number: int, *, end: float, outcome: str) -> None:
        """End a span; nothing where it is gone."""
        self.update(number, end=end, outcome=outcome)
        span = self._open.pop(number, None)
        if span is not None:
            self._closed.append(span)

    def add(self, span: Span) -> None:
        """A span that is over already."""
        self._closed.append(_cut(span))

    def of(self, tenant: TenantId) -> list[Span]:
        """A tenant's spans by start time, open ones included."""
        spans = [span for span in (*self._closed, *self._open.values()) if span.tenant == tenant]
        return sorted(spans, key=lambda span: span.start)


def _cut(span: Span) -> Span:
    if len(span.detail) <= MAX_DETAIL_CHARS:
        return span
    return msgspec.structs.replace(span, detail=span.detail[: MAX_DETAIL_CHARS - 1] + "…")
