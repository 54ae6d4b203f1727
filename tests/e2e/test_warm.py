"""A tool's long result is in the cache before the session comes back with it, on the real server."""

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from real_server import TOKEN, Server, running_server, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

FUNCTION = {
    "name": "list_numbers",
    "description": "List the first numbers.",
    "parameters": {
        "type": "object",
        "properties": {"up_to": {"enum": [200]}},
        "required": ["up_to"],
        "additionalProperties": False,
    },
    "strict": True,
}


@pytest.fixture(scope="module")
def warming(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One of its own: elsewhere, answers must not depend on what is computed beside them."""
    with running_server(tmp_path_factory.mktemp("warming"), "--tool-warm-slice", "256") as server:
        yield server


def counted(server: Server, name: str) -> float:
    """The sum of a counter over its labels."""
    text = httpx.get(f"{server.url}/metrics", timeout=30, follow_redirects=True).text
    return sum(float(value) for value in re.findall(rf"^{name}{{.*}} (\S+)$", text, re.MULTILINE))


@pytest.mark.parametrize("stream", [False, True])
def test_the_next_turn_finds_its_result_in_the_cache(warming: Server, stream: bool) -> None:
    server = warming
    wait_for(server.is_serving_tools, seconds=120)
    session = f"warm {stream}"
    messages: list[Any] = [{"role": "user", "content": f"List the first numbers for {session}."}]
    tokens, prompts = counted(server, "paste_warm_tokens_total"), counted(server, "paste_warm_prompts_total")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=TOKEN, timeout=120, max_retries=0) as client:

        def ask(**fields: Any) -> Any:
            return client.chat.completions.create(
                model="default",
                temperature=0,
                max_tokens=60,
                messages=messages,
                tools=[{"type": "function", "function": FUNCTION}],
                extra_body={"session_id": session, "return_meta_info": not fields.get("stream")},
                **fields,
            )

        content, call_id, arguments = called(ask(tool_choice="required", stream=stream), stream=stream)
        with server.tools() as tools:
            body = {"arguments": json.loads(arguments), "call_id": call_id}
            result = tools.post("/v1/tools/list_numbers", json=body).json()
        assert result["content"].startswith("1\n2\n3\n")
        wait_for(lambda: counted(server, "paste_warm_prompts_total") > prompts, seconds=120)
        assert counted(server, "paste_warm_tokens_total") > tokens + 500
        function = {"name": "list_numbers", "arguments": arguments}
        call = {"id": call_id, "type": "function", "function": function}
        messages.append({"role": "assistant", "content": content, "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": call_id, "content": result["content"]})
        meta = ask(tool_choice="auto").choices[0].meta_info
    assert meta["prompt_tokens"] > 600
    assert meta["prompt_tokens"] - meta["cached_tokens"] <= 2, (content, arguments, meta)


def called(answer: Any, *, stream: bool) -> tuple[str, str, str]:
    """The text of an answer, and the id and the arguments of its one call."""
    if not stream:
        message = answer.choices[0].message
        [call] = message.tool_calls
        return message.content or "", call.id, call.function.arguments
    deltas = [choice.delta for chunk in answer for choice in chunk.choices]
    pieces = [call for delta in deltas for call in delta.tool_calls or ()]
    text = "".join(delta.content or "" for delta in deltas)
    return text, pieces[0].id, "".join(piece.function.arguments or "" for piece in pieces)
