"""`kill -9` of the side process while the real model streams: the client notices nothing but a tool that is late."""

import json
import os
import signal
import time
from typing import Any

import httpx
import openai
import psutil
import pytest
from real_server import TOKEN, Server, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.chaos, pytest.mark.timeout(900)]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "count_words",
        "description": "Count words.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {
                "text": {"enum": ["one", "one two", "one two three"]},
                "reason": {"type": "string", "maxLength": 60},
            },
            "required": ["text", "reason"],
            "additionalProperties": False,
        },
    },
}


def side_process(server: Server) -> psutil.Process | None:
    """The speculator that the server runs at the moment."""
    for child in psutil.Process(server.pid).children(recursive=True):
        try:
            if "speculator" in child.cmdline():
                return child
        except psutil.NoSuchProcess:
            continue
    return None


def stream(server: Server, kill_at_chunk: int | None) -> tuple[list[str], str]:
    """All that the client sees of a streamed call, without ids; the side process dies at the given chunk."""
    seen: list[str] = []
    arguments = ""
    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key=TOKEN, timeout=120, max_retries=0) as client,
        client.chat.completions.create(
            model="default",
            messages=[{"role": "user", "content": "How many words are in 'one two'? Count them, and say why."}],
            tools=[TOOL],
            tool_choice="required",
            temperature=0,
            max_tokens=120,
            stream=True,
        ) as chunks,
    ):
        for number, chunk in enumerate(chunks):
            if number == kill_at_chunk and (victim := side_process(server)) is not None:
                os.kill(victim.pid, signal.SIGKILL)
            choice = chunk.choices[0]
            for delta in choice.delta.tool_calls or []:
                arguments += (delta.function.arguments or "") if delta.function else ""
            seen.append(choice.model_dump_json(exclude={"delta": {"tool_calls": {"__all__": {"id"}}}}))
    return seen, arguments


@pytest.mark.parametrize("chunk", [1, 8, 20])
def test_the_stream_is_the_same_and_the_tools_come_back(server: Server, chunk: int) -> None:
    wait_for(server.is_serving_tools, seconds=60)
    undisturbed, _ = stream(server, None)
    disturbed, arguments = stream(server, chunk)
    assert disturbed == undisturbed
    wait_for(server.is_serving_tools, seconds=60)
    with server.tools() as tools:
        answer = tools.post("/v1/tools/count_words", json={"arguments": json.loads(arguments)})
    assert answer.status_code == 200
    assert answer.json()["content"].strip() == str(len(json.loads(arguments)["text"].split()))


def test_no_call_runs_twice(server: Server) -> None:
    """A write whose answer was lost by a crash: the retry gets the old result or an error, never a second line."""
    lines = server.workspace / "lines.txt"
    for number in range(5):
        wait_for(server.is_serving_tools, seconds=60)
        victim = side_process(server)
        assert victim is not None
        call_id = f"crash-{number}-{time.monotonic_ns()}"
        _append(server, call_id, kill=victim.pid if number % 2 else None)
        wait_for(server.is_serving_tools, seconds=60)
        _append(server, call_id, kill=None)
        assert lines.read_text().splitlines().count(call_id) <= 1


def _append(server: Server, call_id: str, *, kill: int | None) -> None:
    """Ask for the line once; the side process dies as the request is on its way."""
    try:
        with server.tools() as tools:
            if kill is not None:
                os.kill(kill, signal.SIGKILL)
            answer = tools.post("/v1/tools/append_line", json={"arguments": {"line": call_id}, "call_id": call_id})
            assert answer.status_code in (200, 409)
    except httpx.TransportError:
        assert kill is not None
