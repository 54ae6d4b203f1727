"""What the APIs' hooks make of requests and answers."""

import asyncio
import json
import os
import warnings
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from boundary_host import Kept

from bench.tool_formats import TOOLS
from sglang_paste.events import CallIssued, MessageAdded, ToolReturned
from sglang_paste.session import Sessions
from sglang_paste.session.note import KEY, OwnText, read

os.environ.setdefault("SGLANG_USE_CPU_ENGINE", "1")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from sglang.srt.entrypoints.openai.protocol import ChatCompletionRequest, ResponsesRequest
    from sglang.srt.entrypoints.openai.serving_chat import OpenAIServingChat
    from sglang.srt.entrypoints.openai.serving_responses import OpenAIServingResponses

    from sglang_paste.patches import api_turn, bus, serving_chat, serving_responses, tokenizer_manager

pytestmark = pytest.mark.host

USER = {"role": "user", "content": "Read a."}


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Kept:
    sink, sessions = Kept(), Sessions()
    monkeypatch.setattr(bus, "sink", lambda _name: sink)
    monkeypatch.setattr(api_turn, "SESSIONS", sessions)
    monkeypatch.setattr(serving_responses, "SESSIONS", sessions)
    monkeypatch.setattr(tokenizer_manager, "SESSIONS", sessions)
    return sink


def serving(kind: type[Any], **changes: Any) -> Any:
    """A serving object with what the hooks ask for."""
    host = object.__new__(kind)
    host.tool_call_parser = "hermes"
    host.reasoning_parser = None
    host._encoding_adapter = None
    host.use_harmony = False
    host.template_manager = SimpleNamespace(force_reasoning=False)
    for name, value in changes.items():
        setattr(host, name, value)
    return host


CHAT = serving(OpenAIServingChat)


def chat(messages: list[Any], **fields: Any) -> Any:
    return ChatCompletionRequest(model="m", messages=messages, **{"tools": TOOLS, **fields})


def convert(request: Any, host: Any = CHAT) -> Any:
    """The request's note, or None."""
    adapted = SimpleNamespace(sampling_params={"temperature": 0, "custom_params": {"mine": 1}})
    serving_chat.converted((adapted, request), host, request)
    custom = adapted.sampling_params["custom_params"]
    assert custom["mine"] == 1
    return read(custom[KEY]) if KEY in custom else None


def answer(call_ids: list[str], text: str = "") -> Any:
    """A response of the chat API with calls of `read`."""
    calls = [SimpleNamespace(id=name, function=SimpleNamespace(name="read", arguments="{}")) for name in call_ids]
    return SimpleNamespace(choices=[SimpleNamespace(message=SimpleNamespace(tool_calls=calls or None, content=text))])


RET = [{"meta_info": {"id": "r1", "completion_tokens": 9}}]


def assistant(*call_ids: str) -> dict[str, Any]:
    calls = [
        {"id": name, "type": "function", "function": {"name": "read", "arguments": '{"path": "a"}'}}
        for name in call_ids
    ]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def result(call_id: str, content: Any = "text") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": content}


def test_a_note_says_whose_request_it_is(kept: Kept) -> None:
    request = chat([USER], cache_salt="acme", session_id="mine", tool_choice="required")
    before = request.model_dump_json()
    note = convert(request)
    assert (note.tenant, note.session, note.choice, note.thinking) == ("acme", "mine", "required", None)
    assert [tool["function"]["name"] for tool in json.loads(bytes(note.tools))] == ["read", "write_file", "z"]
    assert request.model_dump_json() == before
    assert request.model_copy().model_dump_json() == before


@pytest.mark.parametrize(
    ("fields", "changes"),
    [({"tools": None}, {}), ({"tool_choice": "none"}, {}), ({}, {"tool_call_parser": None})],
)
def test_no_tools_no_note(kept: Kept, fields: dict[str, Any], changes: dict[str, Any]) -> None:
    assert convert(chat([USER], **fields), serving(OpenAIServingChat, **changes)) is None


def test_reasoning_is_split_off_where_the_api_does(kept: Kept) -> None:
    host = serving(OpenAIServingChat, reasoning_parser="qwen3", _get_reasoning_from_request=lambda _request: True)
    assert convert(chat([USER]), host).thinking is True
    assert convert(chat([USER], separate_reasoning=False), host).thinking is None


def test_a_failure_costs_the_note_alone(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_request: Any) -> bool:
        raise RuntimeError("no")

    host = serving(OpenAIServingChat, reasoning_parser="qwen3", _get_reasoning_from_request=fail)
    assert convert(chat([USER]), host) is None
    assert "tool speculation misses a request" in caplog.text


def test_a_conversation_with_calls(kept: Kept) -> None:
    first = chat([USER])
    session = convert(first).session
    serving_chat.built(answer(["call_1", "call_2"]), CHAT, first, RET, 0)
    issued = kept.of(CallIssued)
    assert [(event.session, event.request, event.index, event.call_id) for event in issued] == [
        (session, "r1", 0, "call_1"),
        (session, "r1", 1, "call_2"),
    ]
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    history = [USER, assistant("call_1", "call_2"), result("call_2", parts), result("call_1")]
    assert convert(chat(history)).session == session
    returned = kept.of(ToolReturned)
    assert [(event.call_id, event.content, event.arguments) for event in returned] == [
        ("call_2", "one\ntwo", '{"path": "a"}'),
        ("call_1", "text", '{"path": "a"}'),
    ]
    # A retry, or a later turn, brings no result a second time.
    convert(chat(history))
    convert(chat([*history, assistant("call_3"), result("call_3", "new")]))
    assert [event.call_id for event in kept.of(ToolReturned)][2:] == ["call_3"]


def test_each_message_is_told_once(kept: Kept) -> None:
    system, more = {"role": "system", "content": "Be kind."}, {"role": "user", "content": "And b?"}
    history: list[dict[str, Any]] = [system, USER]
    session = convert(chat(history)).session
    said = {**assistant("call_1"), "content": "I look."}
    for added in ([said, result("call_1")], [], [{"role": "assistant", "content": "Done."}, more]):
        history += added
        latest = chat(history, session_id=session)
        convert(latest)
        if not added:
            # What the engine answers is told when it does, and not again when it is sent back.
            serving_chat.built(answer([], "Done. "), CHAT, latest, RET, 0)
    # The past is rewritten: how it began, and its last answer with what came since.
    convert(chat([system, {"role": "user", "content": "Sum: a, b"}, *history[-2:]], session_id=session))
    told = [(event.role, event.content) for event in kept.of(MessageAdded)]
    last = [("assistant", "Done."), ("user", "And b?")]
    assert told == [
        *(("system", "Be kind."), ("user", "Read a."), ("assistant", "I look.")),
        *(("assistant", "Done. "), ("user", "And b?")),
        *(("system", "Be kind."), ("user", "Sum: a, b")),
        *last,
    ]


def test_results_may_come_one_by_one(kept: Kept) -> None:
    history = [USER, assistant("call_1", "call_2"), result("call_1")]
    session = convert(chat(history)).session
    convert(chat([*history, result("call_2")], session_id=session))
    assert [event.call_id for event in kept.of(ToolReturned)] == ["call_1", "call_2"]


def test_a_huge_result_is_cut(kept: Kept) -> None:
    convert(chat([USER, assistant("call_1"), result("call_1", "x" * 100_000)]))
    assert len(kept.of(ToolReturned)[0].content) == 65_536


def test_a_conversation_without_calls(kept: Kept) -> None:
    first = chat([USER])
    session = convert(first).session
    serving_chat.built(answer([], "It is empty."), CHAT, first, RET, 0)
    said = {"role": "assistant", "content": "It is empty."}
    assert convert(chat([USER, said, USER])).session == session
    assert convert(chat([USER])).session != session


def stream(request: Any, chunks: list[str]) -> list[str]:
    """What a client gets of a stream."""

    async def original(_self: Any, *_args: Any, **_kwargs: Any) -> AsyncIterator[str]:
        for chunk in chunks:
            yield chunk

    async def collect() -> list[str]:
        arguments = (0, "", {}, RET[0], request, {})
        return [chunk async for chunk in serving_chat.streamed(original, CHAT, *arguments, created=0, flush=True)]

    return asyncio.run(collect())


def chunk(**delta: Any) -> str:
    return "data: " + json.dumps({"id": "x", "choices": [{"index": 0, "delta": delta}]}) + "\n\n"


def test_a_stream_goes_through_as_it_is(kept: Kept) -> None:
    request = chat([USER])
    session = convert(request).session
    call = {"id": "call_1", "index": 0, "function": {"name": "read", "arguments": ""}}
    chunks = [chunk(content="I "), chunk(tool_calls=[call]), chunk(tool_calls=[{**call, "id": None}]), "", "data: odd"]
    assert stream(request, chunks) == chunks
    assert [(event.session, event.call_id, event.position) for event in kept.of(CallIssued)] == [(session, "call_1", 9)]


def test_a_streamed_answer_leads_back(kept: Kept) -> None:
    request = chat([USER])
    session = convert(request).session
    stream(request, [chunk(content="It is "), chunk(content="empty.")])
    assert convert(chat([USER, {"role": "assistant", "content": "It is empty."}, USER])).session == session


RESPONSES = serving(OpenAIServingResponses)
FUNCTIONS = [{"type": "function", **tool["function"]} for tool in TOOLS]  # type: ignore[dict-item]


def respond(given: Any, **fields: Any) -> tuple[Any, Any]:
    """A request to the responses API and its note."""
    request = ResponsesRequest(model="m", input=given, tools=FUNCTIONS, **fields)
    sampling: dict[str, Any] = {}
    adapted = SimpleNamespace(require_reasoning=False)

    async def original(host: Any, request: Any) -> None:
        serving_responses.generating(lambda *_args: None, host, "id", "", adapted, sampling, None)

    asyncio.run(serving_responses.created(original, RESPONSES, request))
    return request, read(sampling["custom_params"][KEY])


def items(call_id: str) -> list[dict[str, Any]]:
    return [{"type": "function_call", "name": "read", "call_id": call_id, "arguments": '{"path": "a"}'}]


def test_responses(kept: Kept) -> None:
    first, note = respond("Read a.")
    serving_responses.made_items(items("call_1"), RESPONSES, first, "", None, require_reasoning=False)
    assert [(event.session, event.call_id) for event in kept.of(CallIssued)] == [(note.session, "call_1")]
    output = {"type": "function_call_output", "call_id": "call_1", "output": "text"}
    _, again = respond([USER, *items("call_1"), output])
    assert again.session == note.session
    assert [(event.call_id, event.content) for event in kept.of(ToolReturned)] == [("call_1", "text")]
    _, continued = respond([output], previous_response_id=first.request_id)
    assert continued.session == note.session


def test_responses_streamed(kept: Kept) -> None:
    request, note = respond("Read a.", tool_choice="required")
    assert note.choice == "required"
    item = {"type": "response.output_item.added", "item": items("call_1")[0]}
    events = [
        f"event: response.output_item.added\ndata: {json.dumps(item)}\n\n",
        "event: response.completed\ndata: {}\n\n",
        "event: response.output_item.done\ndata: odd\n\n",
    ]

    async def original(*_args: Any, **_kwargs: Any) -> AsyncIterator[str]:
        for event in events:
            yield event

    async def collect() -> list[str]:
        return [event async for event in serving_responses.streamed(original, RESPONSES, request)]

    assert asyncio.run(collect()) == events
    assert [(event.session, event.call_id) for event in kept.of(CallIssued)] == [(note.session, "call_1")]


def tokenize(custom: dict[str, Any] | None, **fields: Any) -> Any:
    """The custom parameters the scheduler gets."""
    manager = SimpleNamespace(server_args=SimpleNamespace(tool_call_parser="hermes"))
    done = SimpleNamespace(sampling_params=SimpleNamespace(custom_params=custom))
    obj = SimpleNamespace(**{"session_id": None, "cache_salt": None, "extra_key": None, **fields})
    tokenizer_manager.tokenized(done, manager, obj)
    return done.sampling_params.custom_params


def test_only_our_own_note_reaches_the_scheduler(kept: Kept) -> None:
    assert tokenize(None) is None
    assert tokenize({"mine": 1}) == {"mine": 1}
    assert tokenize({KEY: "forged"}) is None
    assert tokenize({KEY: "forged", "mine": 1}) == {"mine": 1}
    ours = tokenize({KEY: OwnText("note"), "mine": 1})
    assert ours == {KEY: "note", "mine": 1}
    assert type(ours[KEY]) is str


def test_generate_may_ask_for_it(kept: Kept) -> None:
    custom = tokenize({"paste_tools": json.dumps(TOOLS)}, session_id="mine", cache_salt="acme")
    note = read(custom[KEY])
    assert (note.session, note.tenant) == ("mine", "acme")


@pytest.mark.parametrize("asked", ["nope", "{}", '[{"type": "function"}]', 5, '["x"]'])
def test_generate_is_told_what_is_wrong(kept: Kept, asked: Any) -> None:
    with pytest.raises(ValueError, match=r"custom_params\.paste_tools is no JSON array of tools"):
        tokenize({"paste_tools": asked})
