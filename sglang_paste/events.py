"""The events of a session, as the engine announces them, and the directives the side process answers with: the
vocabulary of the whole project.

Times are CLOCK_MONOTONIC seconds, which all processes of a machine share. `position` counts the output tokens
of the turn that were committed when the event was known. Arguments travel as the JSON text of one object.
"""

from typing import Literal

import msgspec

from sglang_paste.calls import SessionId, TenantId

StopReason = Literal["tool_calls", "stop", "length", "abort", "error"]


class Event(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """What every event says: whose it is, in which request, and when."""

    tenant: TenantId
    session: SessionId
    request: str
    position: int
    time: float


class TurnStarted(Event, frozen=True, kw_only=True):
    """A request with tools reached the scheduler."""

    prompt_tokens: int
    tools: tuple[str, ...]


class CallOpened(Event, frozen=True, kw_only=True):
    """The model opened its `index`-th call of the turn (counted from 0); the tool is not known yet. `said` is what it
    had said in this turn before its first call, of that the last `MAX_SAID_CHARS`."""

    index: int
    said: str = ""


class CallNamed(Event, frozen=True, kw_only=True):
    """The tool of an open call is known, its arguments are not."""

    index: int
    tool: str


class CallPartial(Event, frozen=True, kw_only=True):
    """Some arguments are complete, but not every required one."""

    index: int
    tool: str
    arguments: str


class CallLikely(Event, frozen=True, kw_only=True):
    """Every required argument is complete, but the object is open: a candidate, not a fact."""

    index: int
    tool: str
    arguments: str


class CallReady(Event, frozen=True, kw_only=True):
    """The arguments object is closed: the call is what the API will return."""

    index: int
    tool: str
    arguments: str


class CallAborted(Event, frozen=True, kw_only=True):
    """An opened call that will never be ready."""

    index: int
    tool: str | None
    reason: StopReason


class CallIssued(Event, frozen=True, kw_only=True):
    """The API gave the `index`-th call of the turn its id."""

    index: int
    tool: str
    call_id: str


class TurnEnded(Event, frozen=True, kw_only=True):
    """The last token of the turn is committed, or the request is gone."""

    reason: StopReason
    calls: int


class MessageAdded(Event, frozen=True, kw_only=True):
    """The session came back with a message that is no tool's result (`content` is cut at `MAX_MESSAGE_CHARS`)."""

    role: Literal["system", "user", "assistant"]
    content: str


class ToolReturned(Event, frozen=True, kw_only=True):
    """The session came back with a tool's result (`content` is cut at `MAX_RESULT_CHARS`)."""

    tool: str
    call_id: str
    arguments: str
    content: str


class SessionEnded(Event, frozen=True, kw_only=True):
    """The client closed the session."""


EngineEvent = (
    TurnStarted
    | CallOpened
    | CallNamed
    | CallPartial
    | CallLikely
    | CallReady
    | CallAborted
    | CallIssued
    | TurnEnded
    | MessageAdded
    | ToolReturned
    | SessionEnded
)


class Directive(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """What every directive says: whose session it is about, and when it was true. Directives advise; the engine does
    without them where none come."""

    tenant: TenantId
    session: SessionId
    time: float


class Expect(Directive, frozen=True, kw_only=True):
    """What is ahead of a session: its tools are done within `p50` seconds after `time` in half of such cases, within
    `p90` in nine of ten; 0 where no tool is under way. The call it makes next was or will be run early with
    `hit_probability`, and takes `tool_seconds` by itself."""

    p50: float
    p90: float
    hit_probability: float = 0.0
    tool_seconds: float = 0.0


class Release(Directive, frozen=True, kw_only=True):
    """The session will not come back."""


class Warm(Directive, frozen=True, kw_only=True):
    """The result of the `index`-th call of a turn is known before the session has come back with it."""

    request: str
    index: int
    content: str


class ForeseenCall(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A call that a session may make next, and how likely it makes exactly this one."""

    tool: str
    arguments: str
    probability: float


class Draft(Directive, frozen=True, kw_only=True):
    """The calls a session may make in its next or present turn, in place of those said before: texts that its model
    may be about to write. At most `MAX_FORESEEN`, none with more than `MAX_FORESEEN_CHARS` of arguments."""

    calls: tuple[ForeseenCall, ...]


EngineDirective = Expect | Release | Warm | Draft

MAX_FORESEEN = 4
MAX_FORESEEN_CHARS = 2048

MAX_SAID_CHARS = 4096
MAX_RESULT_CHARS = 65_536
MAX_MESSAGE_CHARS = 16_384


class Ping(msgspec.Struct, frozen=True, kw_only=True, tag=True, forbid_unknown_fields=True):
    """A heartbeat. Each side sends one a second and answers none.

    `dropped` counts what its sender could not send, `unread` the turns in which it gave up looking for calls, and
    `starts` how often the server has started the side process. `load` is how busy an engine is, from 0 to 1.
    """

    sender: str
    time: float
    dropped: int = 0
    unread: int = 0
    starts: int = 0
    load: float = 0.0


Message = EngineEvent | EngineDirective | Ping
