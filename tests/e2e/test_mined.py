"""A call that mined patterns foresee runs before the model has begun to write it, and is claimed."""

import json
import time
from typing import Any

import openai
import pytest
from real_server import TOKEN, Server, wait_for

SESSION = "a habit"
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def tool(name: str, properties: dict[str, Any]) -> Any:
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    function = {"name": name, "description": name, "parameters": parameters, "strict": True}
    return {"type": "function", "function": function}


ADD = tool("append_line", {"line": {"enum": ["one two"]}})
READ = tool("read_lines", {"count": {"enum": [1]}})


def test_a_mined_habit_is_claimed(server: Server) -> None:
    wait_for(server.is_serving_tools, seconds=60)
    messages: list[Any] = [{"role": "user", "content": "Add the line 'one two' and look at the file."}]
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=TOKEN, timeout=120, max_retries=0) as client:

        def turn(offered: Any) -> Any:
            answer = client.chat.completions.create(
                model="default",
                temperature=0,
                max_tokens=120,
                messages=messages,
                tools=[offered],
                tool_choice="required",
                extra_body={"session_id": SESSION},
            )
            call: Any = (answer.choices[0].message.tool_calls or [])[0]
            result = claim(server, call)
            function = {"name": call.function.name, "arguments": call.function.arguments}
            messages.append(
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{"id": call.id, "type": "function", "function": function}],
                }
            )
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result["content"]})
            return result

        turn(ADD)
        wait_for(lambda: bool(early(server)), seconds=60)
        asked = time.monotonic()
        result = turn(READ)
    assert result["outcome"] in ("reused", "joined")
    run = early(server)[0]
    assert run["start"] < asked, "it ran before the model was asked"
    assert run["outcome"] == "claimed"
    with server.tools() as tools:
        metrics = tools.get("/metrics").text
    assert 'paste_admissions_total{source="mined"}' in metrics


def claim(server: Server, call: Any) -> dict[str, Any]:
    with server.tools() as tools:
        body = {"arguments": json.loads(call.function.arguments), "call_id": call.id}
        answer = tools.post(f"/v1/tools/{call.function.name}", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def early(server: Server) -> list[dict[str, Any]]:
    """The early runs of `read_lines` in this session, the first one first."""
    with server.tools() as tools:
        spans = tools.get("/v1/spans").raise_for_status().json()["spans"]
    own = [span for span in spans if span["session"] == SESSION and span["lane"] == "speculative"]
    return sorted((span for span in own if span["name"] == "read_lines"), key=lambda span: span["start"])
