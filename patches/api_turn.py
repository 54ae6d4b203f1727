"""A request with tools as the API process sees it: its session, its note, and what comes back of it."""

import functools
import logging
import time
from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any, ParamSpec

import msgspec

from sglang_paste.boundary import Sink
from sglang_paste.calls import DEFAULT_TENANT, SessionId, TenantId
from sglang_paste.events import MAX_MESSAGE_CHARS, MAX_RESULT_CHARS, CallIssued, EngineEvent, MessageAdded, ToolReturned
from sglang_paste.session import Message, MessageCall, Note, Sessions
from sglang_paste.session.message import flatten
from sglang_paste.session.note import KEY, write
from sglang_paste.session.reply import Reply, ReplyCall

logger = logging.getLogger(__name__)

P = ParamSpec("P")

_ATTRIBUTE = "_paste_turn"

SESSIONS = Sessions()


def harmless(hook: Callable[P, None]) -> Callable[P, None]:
    """A hook that fails costs its events, never the request."""

    @functools.wraps(hook)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            hook(*args, **kwargs)
        except Exception:
            logger.exception("tool speculation misses a request")

    return guarded


class ApiTurn:
    """One request of a session; its choices (n > 1) are requests of their own to the scheduler."""

    def __init__(self, tenant: TenantId, session: SessionId, messages: list[Message], sink: Sink) -> None:
        self.tenant = tenant
        self.session = session
        self._messages = messages
        self._sink = sink
        self._issued: dict[str, list[ReplyCall]] = {}
        self._said: dict[str, list[str]] = {}
        self._answered = False

    def arrived(self) -> None:
        """Say what this request brought that was not known yet."""
        answers = (message for message in reversed(self._messages) if message.role == "assistant")
        calls = {call.call_id: call for message in islice(answers, 1) for call in message.calls}
        events: list[EngineEvent] = []
        for message in SESSIONS.fresh(self.tenant, self.session, self._messages):
            calls |= {call.call_id: call for call in message.calls}
            role = "system" if message.role == "developer" else message.role
            if role == "tool" and message.answers in calls:
                if SESSIONS.returned(self.tenant, self.session, message.answers):
                    events.append(self._result(calls[message.answers], message))
            elif role in ("system", "user", "assistant") and message.content:
                events.append(self._message(role, message.content))
        if events:
            self._sink.send(events)

    def issue(self, request: str, position: int, calls: Iterable[tuple[str, str]]) -> None:
        """The API gave (tool, id) to the next calls of `request`."""
        events: list[EngineEvent] = []
        for tool, call_id in calls:
            issued = self._issued.setdefault(request, [])
            index = len(issued)
            issued.append(ReplyCall(call_id, tool))
            SESSIONS.issued(self.tenant, self.session, call_id)
            events.append(CallIssued(**self._head(request), position=position, index=index, tool=tool, call_id=call_id))
        if events:
            self._sink.send(events)

    def say(self, request: str, text: str) -> None:
        """A piece of the answer's text was streamed."""
        self._said.setdefault(request, []).append(text)

    def add(self, request: str, index: int, arguments: str) -> None:
        """A piece of the arguments of a call was streamed."""
        issued = self._issued.get(request, ())
        if index < len(issued):
            issued[index].arguments += arguments

    def reply(self, request: str) -> Reply:
        """What of the answer was streamed."""
        return Reply("".join(self._said.get(request, ())), self._issued.get(request, []))

    def answer(self, request: str) -> None:
        """The answer that was streamed is complete."""
        self.answered("".join(self._said.pop(request, ())), request)

    def answered(self, text: str, request: str) -> None:
        """The answer is complete; one with calls is known again by their ids. Of several choices one is told."""
        if text and not self._answered:
            self._answered = True
            SESSIONS.told(self.tenant, self.session, text)
            self._sink.send([self._message("assistant", text, request)])
        if text and not self._issued.get(request):
            SESSIONS.answered(self.tenant, self.session, self._messages, Message(role="assistant", content=text))

    def _message(self, role: Any, text: str, request: str = "") -> MessageAdded:
        return MessageAdded(**self._head(request), position=0, role=role, content=text[:MAX_MESSAGE_CHARS])

    def _result(self, call: MessageCall, message: Message) -> ToolReturned:
        return ToolReturned(
            **self._head(""),
            position=0,
            tool=call.tool,
            call_id=call.call_id,
            arguments=call.arguments,
            content=message.content[:MAX_RESULT_CHARS],
        )

    def _head(self, request: str) -> dict[str, Any]:
        return {"tenant": self.tenant, "session": self.session, "request": request, "time": time.monotonic()}


def begin(
    request: Any,
    sampling: dict[str, Any],
    messages: list[Message],
    *,
    tools: list[Any],
    choice: Any,
    thinking: bool | None,
    sink: Sink,
) -> ApiTurn:
    """Find the request's session, write its note into `sampling`, and keep the turn with the request."""
    tenant = tenant_of(request)
    session = SESSIONS.resolve(tenant, messages, request.session_id)
    turn = ApiTurn(tenant, session, messages, sink)
    note = Note(
        tenant=tenant,
        session=session,
        tools=msgspec.Raw(msgspec.json.encode([plain(tool) for tool in tools])),
        choice=plain(choice),
        thinking=thinking,
    )
    sampling["custom_params"] = {**(sampling.get("custom_params") or {}), KEY: write(note)}
    object.__setattr__(request, _ATTRIBUTE, turn)
    turn.arrived()
    return turn


def turn_of(request: Any) -> ApiTurn | None:
    """The turn that `begin` kept with a request."""
    turn = getattr(request, "__dict__", {}).get(_ATTRIBUTE)
    return turn if isinstance(turn, ApiTurn) else None


def tenant_of(request: Any) -> TenantId:
    """Whoever has a cache of their own is a tenant of their own."""
    for name in ("cache_salt", "extra_key"):
        value = getattr(request, name, None)
        if isinstance(value, str) and value:
            return TenantId(value)
    return DEFAULT_TENANT


def chat_messages(messages: Iterable[Any]) -> list[Message]:
    """The messages of a chat request."""
    return [
        Message(
            role=message.role,
            content=flatten(_content(message.content)),
            calls=tuple(_chat_call(call) for call in getattr(message, "tool_calls", None) or ()),
            answers=getattr(message, "tool_call_id", None) or "",
        )
        for message in messages
    ]


def plain(value: Any) -> Any:
    """A pydantic model as JSON data."""
    return value.model_dump() if hasattr(value, "model_dump") else value


def _content(content: Any) -> Any:
    return [plain(part) for part in content] if isinstance(content, list) else content


def _chat_call(call: Any) -> MessageCall:
    arguments = call.function.arguments
    text = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments or {}).decode()
    return MessageCall(call.id or "", call.function.name or "", text)
