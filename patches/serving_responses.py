"""Hooks of the responses API."""

from collections.abc import AsyncIterator, Callable, Iterable
from contextvars import ContextVar
from typing import Any

import msgspec

from sglang_paste.patches import bus
from sglang_paste.patches.api_turn import SESSIONS, ApiTurn, begin, harmless, plain, turn_of
from sglang_paste.session import Message, MessageCall
from sglang_paste.session.message import flatten

_CALLS = ("function_call", "custom_tool_call")
_RESULTS = ("function_call_output", "custom_tool_call_output")

_current: ContextVar[Any] = ContextVar("paste_responses_request", default=None)


async def created(original: Callable[..., Any], serving: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
    """Around `create_responses`: what is called below it gets to know the request."""
    token = _current.set(request)
    try:
        return await original(serving, request, *args, **kwargs)
    finally:
        _current.reset(token)


def generating(original: Callable[..., Any], serving: Any, *args: Any, **kwargs: Any) -> Any:
    """Around `_generate_with_builtin_tools`: the sampling parameters get their note before they are sent."""
    # request_id, request_prompt, adapted_request, sampling_params, …
    request = _current.get()
    if request is not None:
        _begin(serving, request, args[2], args[3])
    return original(serving, *args, **kwargs)


@harmless
def made_items(
    result: Any, serving: Any, request: Any, *args: Any, require_reasoning: bool = False, **kwargs: Any
) -> None:
    """After `_make_response_output_items`: calls have their ids now."""
    turn = turn_of(request)
    if turn is not None:
        items = [plain(item) for item in result]
        _issue(turn, request, items)
        turn.answered(_said(items), request.request_id)


async def streamed(
    original: Callable[..., AsyncIterator[str]], serving: Any, request: Any, *args: Any, **kwargs: Any
) -> Any:
    """Around `responses_stream_generator_non_harmony`: the same events, read on their way."""
    turn = turn_of(request)
    async for event in original(serving, request, *args, **kwargs):
        if turn is not None and event.startswith("event: response.output_item."):
            _read(turn, request, event)
        yield event


@harmless
def _begin(serving: Any, request: Any, adapted: Any, sampling: dict[str, Any]) -> None:
    if serving.use_harmony or not serving.tool_call_parser or serving._encoding_output() is not None:
        return
    tools = serving._response_tools_to_chat_tools(request)
    if not serving._tool_parsing_active(request, tools):
        return
    forced = serving.template_manager.force_reasoning or adapted.require_reasoning
    turn = begin(
        request,
        sampling,
        _messages(serving, request),
        tools=tools,
        choice=serving._chat_tool_choice(request.effective_tool_choice()),
        thinking=bool(forced) if serving.reasoning_parser else None,
        sink=bus.sink("api"),
    )
    # A request that continues this one may name it instead of repeating what was said.
    SESSIONS.issued(turn.tenant, turn.session, request.request_id)


def _messages(serving: Any, request: Any) -> list[Message]:
    first = [Message(role="system", content=request.instructions)] if request.instructions else []
    if request.previous_response_id:
        first.append(Message(role="continues", answers=request.previous_response_id))
    if isinstance(request.input, str):
        return [*first, Message(role="user", content=request.input)]
    messages = first
    for item in map(plain, request.input):
        message = _message(item)
        # The calls of one answer are items of their own here.
        if message.calls and messages and messages[-1].role == "assistant":
            messages[-1] = msgspec.structs.replace(messages[-1], calls=messages[-1].calls + message.calls)
        elif message.role:
            messages.append(message)
    return messages


def _message(item: dict[str, Any]) -> Message:
    kind = item.get("type", "message")
    call_id = item.get("call_id") or item.get("id") or ""
    if kind in _CALLS:
        arguments = item.get("arguments") or msgspec.json.encode({"input": item.get("input", "")}).decode()
        return Message(role="assistant", calls=(MessageCall(call_id, item.get("name", ""), arguments),))
    if kind in _RESULTS:
        return Message(role="tool", content=flatten(item.get("output")), answers=call_id)
    return Message(role=item.get("role") or "", content=flatten(item.get("content")))


def _issue(turn: ApiTurn, request: Any, items: Iterable[dict[str, Any]]) -> None:
    calls = [(item.get("name") or "", item["call_id"]) for item in items if item.get("type") in _CALLS]
    turn.issue(request.request_id, 0, calls)


def _said(items: Iterable[dict[str, Any]]) -> str:
    return "\n".join(flatten(item.get("content")) for item in items if item.get("type") == "message")


@harmless
def _read(turn: ApiTurn, request: Any, event: str) -> None:
    item = msgspec.json.decode(event.split("data: ", 1)[1])["item"]
    if event.startswith("event: response.output_item.added"):
        _issue(turn, request, [item])
    elif item.get("type") == "message":
        turn.answered(_said([item]), request.request_id)
