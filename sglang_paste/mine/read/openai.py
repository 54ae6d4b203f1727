"""Conversations as the OpenAI chat API has them: JSON lines of `{"messages": [...]}`.

The optional `id` (or `session_id`), `task_id`, `source` and `tenant` say whose conversation it is, and `tools` what was
offered.
"""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from sglang_paste.calls import parse_arguments
from sglang_paste.errors import BadArguments
from sglang_paste.mine.read.text import Pending, digest, offered, plain, task_or_text
from sglang_paste.mine.records import Call, Result, Session, Turn

SOURCE = "openai"


class _Function(msgspec.Struct):
    name: str
    arguments: str | dict[str, Any] | None = None


class _ToolCall(msgspec.Struct):
    function: _Function
    id: str | None = None


class _Message(msgspec.Struct):
    role: str
    content: Any = None
    tool_calls: list[_ToolCall] | None = None
    function_call: _Function | None = None
    tool_call_id: str | None = None
    name: str | None = None


class _Conversation(msgspec.Struct):
    messages: list[_Message]
    id: str | int | None = None
    session_id: str | int | None = None
    task_id: str | int | None = None
    source: str = SOURCE
    tenant: str = ""
    tools: list[Any] | None = None


_decoder = msgspec.json.Decoder(_Conversation)


def read(data: bytes, note: Callable[[str], None]) -> list[Session]:
    """The session of one line; `note` hears of each call whose arguments are no JSON object: it is left out.

    Raises msgspec.MsgspecError, UnicodeDecodeError or RecursionError.
    """
    found = _decoder.decode(data)
    turns = tuple(_turns(found.messages, note))
    given = found.session_id if found.id is None else found.id
    session_id = digest(data) if given is None else str(given)
    task_id = task_or_text(found.task_id, turns, session_id)
    return [Session(found.source, session_id, task_id, turns, found.tenant, offered(found.tools))]


def _turns(messages: list[_Message], note: Callable[[str], None]) -> Iterator[Turn]:
    pending, results = Pending(), list[Result]()
    for message in messages:
        if message.role in ("tool", "function"):
            results.append(pending.result(plain(message.content), message.tool_call_id, message.name))
            continue
        if results:
            yield Turn("tool", tool_results=tuple(results))
            results = []
        calls = tuple(_calls(message, note))
        if message.role == "assistant":
            pending = Pending(calls)
        yield Turn("system" if message.role == "developer" else message.role, plain(message.content), calls)
    if results:
        yield Turn("tool", tool_results=tuple(results))


def _calls(message: _Message, note: Callable[[str], None]) -> Iterator[Call]:
    made = list(message.tool_calls or ())
    if message.function_call is not None:
        made.append(_ToolCall(message.function_call))
    for call in made:
        arguments = call.function.arguments
        try:
            parsed = arguments if isinstance(arguments, dict) else parse_arguments(arguments or "")
        except BadArguments as error:
            note(f"a call of {call.function.name!r} is left out: {error}")
            continue
        yield Call(call.function.name, parsed, call.id)
