"""A recorded session, in the one form that mining and evaluation read, whatever it was recorded as."""

from typing import Any, Literal, get_args

import msgspec

Format = Literal["sessions", "openai", "atif", "journal"]
FORMATS: tuple[Format, ...] = get_args(Format)


class Call(msgspec.Struct, frozen=True):
    """A tool call as the model made it."""

    name: str
    arguments: dict[str, Any]
    id: str | None = None


class Result(msgspec.Struct, frozen=True):
    """What a tool gave back. `duration_s` is the tool's own run in seconds; None where it was not recorded.

    `truncated`: the recorder cut `content`. `is_error` is None where the recorder did not say.
    """

    name: str
    content: str
    id: str | None = None
    duration_s: float | None = None
    truncated: bool = False
    is_error: bool | None = None


class Turn(msgspec.Struct, frozen=True):
    """One turn of a session: `role` is system, user, assistant or tool. Times are seconds since 1970.

    An assistant turn has calls, a tool turn has results; one tool turn holds the results of one assistant turn.
    """

    role: str
    content: str = ""
    tool_calls: tuple[Call, ...] = ()
    tool_results: tuple[Result, ...] = ()
    t_start: float | None = None
    t_end: float | None = None


class Session(msgspec.Struct, frozen=True):
    """One conversation, its turns in order. `task_id` is the same for every session of one task, `tools` are the names
    of the tools that were offered (None where that was not recorded)."""

    source: str
    session_id: str
    task_id: str
    turns: tuple[Turn, ...]
    tenant: str = ""
    tools: tuple[str, ...] | None = None
