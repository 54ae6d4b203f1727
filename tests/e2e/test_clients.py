"""The official clients against the real server: the tool has run, or runs, before they ask for it."""

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import anyio
import httpx2
import openai
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.types import TextContent
from real_server import TOKEN, Server, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
HITS = {"reused", "joined", "promoted"}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "text": {"enum": ["one", "one two", "one two three"]},
        "reason": {"type": "string", "maxLength": 60},
    },
    "required": ["text", "reason"],
    "additionalProperties": False,
}
QUESTION = "How many words are in 'one two three'? Count them, and say why."
CHAT_TOOL: Any = {
    "type": "function",
    "function": {"name": "count_words", "description": "Count words.", "parameters": SCHEMA, "strict": True},
}
# The grammar lets the model write white space after a call, and a small one may not stop.
BOUNDED: Any = {"model": "default", "temperature": 0, "max_tokens": 160}
NAMED: Any = {"type": "function", "function": {"name": "count_words"}}


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    wait_for(server.is_serving_tools, seconds=60)
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=TOKEN, timeout=120, max_retries=0) as client:
        yield client


def claim(server: Server, arguments: str, call_id: str | None = None) -> dict[str, Any]:
    with server.tools() as tools:
        body = {"arguments": json.loads(arguments)} | ({"call_id": call_id} if call_id else {})
        answer = tools.post("/v1/tools/count_words", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def words(arguments: str) -> str:
    return str(len(json.loads(arguments)["text"].split()))


def test_chat(server: Server, client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        **BOUNDED, messages=[{"role": "user", "content": QUESTION}], tools=[CHAT_TOOL], tool_choice=NAMED
    )
    call: Any = (answer.choices[0].message.tool_calls or [])[0]
    result = claim(server, call.function.arguments, call.id)
    assert result["outcome"] in HITS
    assert result["content"].strip() == words(call.function.arguments)


def test_chat_stream_without_call_id(server: Server, client: openai.OpenAI) -> None:
    arguments = ""
    for chunk in client.chat.completions.create(
        **BOUNDED,
        messages=[{"role": "user", "content": QUESTION + " Again."}],
        tools=[CHAT_TOOL],
        tool_choice="required",
        stream=True,
    ):
        for delta in chunk.choices[0].delta.tool_calls or []:
            arguments += (delta.function.arguments or "") if delta.function else ""
    result = claim(server, arguments)
    assert result["outcome"] in HITS
    assert result["content"].strip() == words(arguments)


def test_a_call_id_runs_once(server: Server, client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        **BOUNDED, messages=[{"role": "user", "content": "Count, once."}], tools=[CHAT_TOOL], tool_choice=NAMED
    )
    call: Any = (answer.choices[0].message.tool_calls or [])[0]
    first = claim(server, call.function.arguments, call.id)
    again = claim(server, call.function.arguments, call.id)
    assert again["outcome"] == "replayed"
    assert again["content"] == first["content"]


def test_responses(server: Server, client: openai.OpenAI) -> None:
    tool: Any = {"type": "function", "name": "count_words", "parameters": SCHEMA, "strict": True}
    answer = client.responses.create(
        model="default", temperature=0, max_output_tokens=160, input=QUESTION, tools=[tool], tool_choice="required"
    )
    calls: list[Any] = [item for item in answer.output if item.type == "function_call"]
    result = claim(server, calls[0].arguments, calls[0].call_id)
    assert result["outcome"] in HITS


def test_anthropic_messages(server: Server) -> None:
    tool: Any = {"name": "count_words", "description": "Count words.", "input_schema": SCHEMA, "strict": True}
    with anthropic.Anthropic(base_url=server.url, auth_token=TOKEN, timeout=120, max_retries=0) as client:
        message = client.messages.create(
            model="default",
            max_tokens=160,
            extra_body={"temperature": 0},
            messages=[{"role": "user", "content": QUESTION}],
            tools=[tool],
            tool_choice={"type": "tool", "name": "count_words"},
        )
    calls: list[Any] = [block for block in message.content if block.type == "tool_use"]
    result = claim(server, json.dumps(calls[0].input), calls[0].id)
    assert result["outcome"] in HITS


def test_mcp_client_claims_what_the_engine_announced(server: Server, client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        **BOUNDED, messages=[{"role": "user", "content": "Count for MCP."}], tools=[CHAT_TOOL], tool_choice=NAMED
    )
    call: Any = (answer.choices[0].message.tool_calls or [])[0]
    content, outcome = anyio.run(_call_over_mcp, server, json.loads(call.function.arguments))
    assert content.strip() == words(call.function.arguments)
    assert outcome in HITS


async def _call_over_mcp(server: Server, arguments: dict[str, Any]) -> tuple[str, str]:
    headers = {"authorization": f"Bearer {TOKEN}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=60) as http,
        Client(streamable_http_client(f"{server.gateway}/mcp", http_client=http)) as client,
    ):
        tools = await client.list_tools()
        assert {tool.name for tool in tools.tools} == {"count_words", "append_line", "read_lines", "list_numbers"}
        result = await client.call_tool("count_words", arguments)
    (block,) = result.content
    assert isinstance(block, TextContent)
    return block.text, (result.meta or {})["outcome"]


def test_who_hangs_up_in_a_call_ends_the_turn(server: Server, client: openai.OpenAI) -> None:
    before = len(ends(server))
    with client.chat.completions.create(
        **BOUNDED,
        messages=[{"role": "user", "content": "Count, and I hang up."}],
        tools=[CHAT_TOOL],
        tool_choice="required",
        stream=True,
    ) as chunks:
        for chunk in chunks:
            if any(delta.function and delta.function.arguments for delta in chunk.choices[0].delta.tool_calls or []):
                break
    wait_for(lambda: len(ends(server)) > before, seconds=60)
    assert ends(server)[-1] == "abort"


def ends(server: Server) -> list[str]:
    """How the turns that are over ended."""
    with server.tools() as tools:
        spans = tools.get("/v1/spans").raise_for_status().json()["spans"]
    return [span["outcome"] for span in spans if span["lane"] == "model" and span["end"] is not None]
