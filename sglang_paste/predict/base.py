"""What a predictor looks like to the planner."""

from typing import Literal, Protocol

import msgspec

from sglang_paste.calls import Arguments, SessionId, TenantId, ToolCall
from sglang_paste.events import Event

MIN_PROBABILITY = 0.02  # below it a candidate is not worth a look
UNRETURNED = 16  # calls of a session whose results have not come back
DEFAULT_DELAY = 2.0  # seconds from a turn's start to its call, where none was timed
NAMED_DELAY = 0.3  # seconds from a tool's name to its call

Source = Literal["stream", "pattern", "mined"]


class ToolShape(msgspec.Struct, frozen=True):
    """What is known of a tool's arguments: the names in its schema, and those that cannot change the result."""

    arguments: tuple[str, ...] = ()
    inert: tuple[str, ...] = ()


class RunTime(msgspec.Struct, frozen=True, kw_only=True):
    """Expected run time of a call in seconds."""

    p50: float
    p90: float


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A call the session may make next, with the probability that it makes exactly this one.

    `claimed_in` is the expected time in seconds until the client asks for it.
    """

    tenant: TenantId
    session: SessionId
    tool: str
    arguments: Arguments
    probability: float
    run_time: RunTime
    claimed_in: float
    source: Source


class Predictor(Protocol):
    """Learns from what happened, and says what may happen next. It does no I/O that can block."""

    def observe(self, event: Event) -> list[Candidate]:
        """Take in an event; the candidates that became worth a look because of it."""

    def confirm(
        self, call: ToolCall, content: str, duration: float, *, ok: bool, asked: float | None = None
    ) -> list[Candidate]:
        """Learn from an authoritative call that was really made, and its result.

        `duration` is the tool's own run in seconds, `asked` the monotonic time the client's request came in (now,
        where absent). A call without a session teaches the tool's run time alone.
        """
