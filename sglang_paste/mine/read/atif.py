"""ATIF trajectories (Agent Trajectory Interchange Format, versions 1.x): one in a file, or one in a line.

A trajectory becomes a session of the source that its agent is named; the trajectories of subagents inside it become
sessions of their own.
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import msgspec

from sglang_paste.mine.read.text import Pending, digest, offered, plain, task_or_text
from sglang_paste.mine.records import Call, Result, Session, Turn

_ROLES = {"system": "system", "user": "user", "agent": "assistant"}


class _ToolCall(msgspec.Struct):
    function_name: str
    arguments: dict[str, Any]
    tool_call_id: str | None = None


class _Result(msgspec.Struct):
    source_call_id: str | None = None
    content: Any = None


class _Observation(msgspec.Struct):
    results: list[_Result]


class _Step(msgspec.Struct):
    source: str
    message: Any = ""
    timestamp: str | None = None
    tool_calls: list[_ToolCall] | None = None
    observation: _Observation | None = None


class _Agent(msgspec.Struct):
    name: str = "atif"
    tool_definitions: list[Any] | None = None


class _Trajectory(msgspec.Struct):
    schema_version: str
    agent: _Agent
    steps: list[_Step]
    session_id: str | None = None
    trajectory_id: str | None = None
    extra: dict[str, Any] | None = None
    subagent_trajectories: list["_Trajectory"] | None = None


_decoder = msgspec.json.Decoder(_Trajectory)


def read(data: bytes) -> list[Session]:
    """The sessions of one document. Raises msgspec.MsgspecError, UnicodeDecodeError or RecursionError."""
    return list(_sessions(_decoder.decode(data), digest(data)))


def _sessions(found: _Trajectory, unnamed: str) -> Iterator[Session]:
    if not found.schema_version.startswith("ATIF-v1."):
        raise msgspec.ValidationError(f"its schema_version is {found.schema_version!r}, ATIF-v1.x can be read")
    names = [name for name in (found.session_id, found.trajectory_id) if name]
    session_id = "/".join(names) or unnamed
    turns = tuple(turn for step in found.steps for turn in _turns(step))
    task = task_or_text((found.extra or {}).get("task_id"), turns, session_id)
    yield Session(found.agent.name, session_id, task, turns, tools=offered(found.agent.tool_definitions))
    for number, below in enumerate(found.subagent_trajectories or ()):
        yield from _sessions(below, f"{session_id}/{number}")


def _turns(step: _Step) -> Iterator[Turn]:
    if step.source not in _ROLES:
        raise msgspec.ValidationError(f"a step has the source {step.source!r}; system, user and agent are known")
    calls = tuple(Call(call.function_name, call.arguments, call.tool_call_id) for call in step.tool_calls or ())
    yield Turn(_ROLES[step.source], plain(step.message), calls, t_start=_seconds(step.timestamp))
    observed = step.observation.results if step.observation is not None else []
    if not observed:
        return
    if not calls:
        # What the surroundings say to an agent that called no tool reaches the model as a message of the user.
        yield Turn("user", "\n".join(plain(result.content) for result in observed))
        return
    yield Turn("tool", tool_results=tuple(_results(calls, observed)))


def _results(calls: tuple[Call, ...], observed: list[_Result]) -> Iterator[Result]:
    pending = Pending(calls)
    for result in observed:
        yield pending.result(plain(result.content), result.source_call_id)


def _seconds(timestamp: str | None) -> float | None:
    try:
        return None if timestamp is None else datetime.fromisoformat(timestamp).timestamp()
    except (ValueError, OverflowError):
        return None
