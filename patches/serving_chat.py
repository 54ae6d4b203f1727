"""Hooks of the chat API, through which the Anthropic messages API goes as well."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from sglang_paste.patches import bus, warm
from sglang_paste.patches.api_turn import ApiTurn, begin, chat_messages, harmless, turn_of
from sglang_paste.session.reply import Reply, ReplyCall


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    function: _Function
    id: str | None = None
    index: int = 0


class _Delta(msgspec.Struct):
    content: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta


class _Chunk(msgspec.Struct):
    """What is read of a streamed chunk."""

    choices: list[_Choice]


_CHUNK = msgspec.json.Decoder(_Chunk)


@harmless
def converted(result: Any, serving: Any, request: Any, raw_request: Any = None) -> None:
    """After `_convert_to_internal_request`: a request with tools gets its session and its note."""
    adapted, _ = result
    if warm.rendering() or not serving._tool_call_parsing_active(request) or serving._encoding_output() is not None:
        return
    tools = serving._effective_tools(request)
    if not tools:
        return
    turn = begin(
        request,
        adapted.sampling_params,
        chat_messages(request.messages),
        tools=tools,
        choice=request.tool_choice,
        thinking=_thinking(serving, request),
        sink=bus.sink("api"),
    )
    warm.began(turn, serving, request)


@harmless
def built(result: Any, serving: Any, request: Any, ret: list[dict[str, Any]], created: int) -> None:
    """After `_build_chat_response`: calls have their ids now."""
    turn = turn_of(request)
    if turn is None or not hasattr(result, "choices"):
        return
    for choice, item in zip(result.choices, ret, strict=True):
        meta = item["meta_info"]
        calls = [
            ReplyCall(call.id or "", call.function.name or "", call.function.arguments or "")
            for call in choice.message.tool_calls or ()
        ]
        turn.issue(meta["id"], meta.get("completion_tokens", 0), [(call.name, call.id) for call in calls])
        turn.answered(choice.message.content or "", meta["id"])
        warm.replied(turn, meta, Reply(choice.message.content or "", calls))


async def streamed(original: Callable[..., AsyncIterator[str]], serving: Any, *args: Any, **kwargs: Any) -> Any:
    """Around `_process_tool_call_stream`: the same chunks, read on their way."""
    # index, delta, parser_dict, content, request, …
    turn, meta = turn_of(args[4]), args[3]["meta_info"]
    async for chunk in original(serving, *args, **kwargs):
        if turn is not None and chunk:
            _read(chunk, turn, meta)
        yield chunk
    if turn is not None and kwargs.get("flush"):
        warm.replied(turn, meta, turn.reply(meta["id"]))
        turn.answer(meta["id"])


@harmless
def _read(chunk: str, turn: ApiTurn, meta: dict[str, Any]) -> None:
    for choice in _CHUNK.decode(chunk.removeprefix("data: ")).choices:
        if choice.delta.content:
            turn.say(meta["id"], choice.delta.content)
        pieces = choice.delta.tool_calls or ()
        calls = [(call.function.name or "", call.id) for call in pieces if call.id]
        turn.issue(meta["id"], meta.get("completion_tokens", 0), calls)
        for call in pieces:
            turn.add(meta["id"], call.index, call.function.arguments or "")


def _thinking(serving: Any, request: Any) -> bool | None:
    if not serving.reasoning_parser or not request.separate_reasoning:
        return None
    return bool(serving.template_manager.force_reasoning or serving._get_reasoning_from_request(request))
