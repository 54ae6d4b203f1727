"""An agent as a client: it streams an answer, asks for the tools it calls, and sends everything back."""

import asyncio
import itertools
import json
import time
from typing import Any

import httpx
import msgspec

from bench.forced import FORCED_IDS
from bench.replay.recording import Answer, Recording
from bench.replay.records import Call, Outcome
from bench.replay.script import Message, is_said
from bench.replay.toolserver import OTHER, SESSION_HEADER, ToolServer
from bench.stream import Collected, assistant_message

TIMEOUT_S = 600.0
# What an agent asks for; how much it gets to hear is for nobody to know before.
MAX_TOKENS = 1024
_JSON = {"content-type": "application/json"}


class Diverged(Exception):
    """Something is not as it was recorded, so that no number of this run counts."""


class Garbled(Diverged):
    """An answer has the recorded tokens, as the server checks, and the API reads something else in them."""


class Said(msgspec.Struct, frozen=True):
    """An answer as it was streamed; times are of the monotonic clock. `calls` are (id, tool, arguments)."""

    rid: str
    sent: float
    first: float
    ended: float
    prompt: int
    cached: int
    output: int
    content: str
    calls: tuple[tuple[str, str, str], ...]


class Played(msgspec.Struct):
    """A turn with what its calls came to; `returned` is when the last result was there."""

    said: Said
    returned: float
    calls: tuple[Call, ...]


class Tools:
    """Where an agent gets its tools: from the gateway of a server, or straight from where they run."""

    def __init__(self, http: httpx.AsyncClient, server: ToolServer, gateway: int | None, *, other: bool) -> None:
        self._http, self._server = http, server
        self._gateway = gateway
        self._other = itertools.count() if other else None

    async def call(self, session: str, tool: str, arguments: str, call_id: str) -> tuple[str, Outcome]:
        """The result, and how the gateway came by it."""
        if self._gateway is None:
            headers = {SESSION_HEADER: session, **_JSON}
            answer = await self._http.post(self._server.url(tool), content=arguments.encode(), headers=headers)
            answer.raise_for_status()
            return answer.text, "run"
        body: dict[str, Any] = {"arguments": msgspec.Raw(arguments.encode()), "session": session, "call_id": call_id}
        if self._other is not None:
            # Each call in a session of its own: all that ran early was for nothing.
            body = {"arguments": body["arguments"], "session": f"{next(self._other)}{OTHER}{session}"}
        url = f"http://127.0.0.1:{self._gateway}/v1/tools/{tool}"
        answer = await self._http.post(url, content=msgspec.json.encode(body), headers=_JSON)
        if answer.status_code != httpx.codes.OK:
            raise Diverged(f"the gateway answered {answer.status_code} to {tool}: {answer.text[:300]}")
        found = answer.json()
        return found["content"], found["outcome"]


class Agent:
    """One session with one server. `name` is the session's, `ids` what the model says in each answer."""

    def __init__(
        self, http: httpx.AsyncClient, port: int, tools: Tools, recording: Recording, ids: list[list[int]], name: str
    ) -> None:
        self._http, self._url = http, f"http://127.0.0.1:{port}/v1/chat/completions"
        self._tools, self._recording, self._ids, self._name = tools, recording, ids, name
        self._messages: list[Message] = []
        self._index = 0

    async def play(self, server: ToolServer, offered: list[dict[str, Any]]) -> list[Played]:
        """Every turn of the recording. Raises Diverged where anything is not as it was recorded."""
        server.world.begin(self._name, self._recording)
        played: list[Played] = []
        for answer, ids in zip(self._recording.answers, self._ids, strict=True):
            self._messages += answer.arrives
            said = await self._ask(ids, offered)
            calls = [(name, arguments) for _, name, arguments in said.calls]
            if said.output != len(ids):
                raise Diverged(f"{self._name}: the model said {said.output} tokens, not {len(ids)}")
            if not is_said(answer, said.content, calls):
                counts = f"{len(calls)} calls for {len(answer.calls)}"
                told = f"{said.content[-80:]!r} for {answer.content[-80:]!r}, {counts}"
                raise Garbled(f"{self._name}: what was said ends with {told}, or their arguments differ")
            self._messages.append(assistant_message(said.content, said.calls))
            results = await self._results(answer, said, server)
            played.append(Played(said, time.monotonic(), tuple(results)))
        return played

    async def _results(self, answer: Answer, said: Said, server: ToolServer) -> list[Call]:
        """All at once, but in order where one of them writes."""
        first, self._index = self._index, self._index + len(answer.calls)
        work = [self._result(answer, said, number, first + number, server) for number in range(len(answer.calls))]
        if any(call.effect == "write" for call in answer.calls):
            done = [await each for each in work]
        else:
            done = list(await asyncio.gather(*work))
        for (call_id, _, _), (_, content) in zip(said.calls, done, strict=True):
            self._messages.append({"role": "tool", "tool_call_id": call_id, "content": content})
        return [call for call, _ in done]

    async def _result(
        self, answer: Answer, said: Said, number: int, index: int, server: ToolServer
    ) -> tuple[Call, str]:
        recorded = answer.calls[number]
        call_id, tool, arguments = said.calls[number]
        asked = time.monotonic()
        content, outcome = await self._tools.call(self._name, tool, arguments or "{}", call_id)
        latency = time.monotonic() - asked
        if content != recorded.result:
            raise Diverged(f"{self._name}: call {index}, {tool}, returned {content[:200]!r}, not what was recorded")
        seconds = server.world.seconds(self._name, index)
        call = Call(tool=tool, effect=recorded.effect, outcome=outcome, latency_s=latency, duration_s=seconds)
        return call, content

    async def _ask(self, ids: list[int], offered: list[dict[str, Any]]) -> Said:
        body = {
            "model": "default",
            "messages": self._messages,
            "tools": offered,
            "session_id": self._name,
            "temperature": 0,
            "max_tokens": MAX_TOKENS,
            "stream": True,
            "stream_options": {"include_usage": True},
            "custom_params": {FORCED_IDS: ids},
        }
        sent = time.monotonic()
        content = msgspec.json.encode(body)
        async with self._http.stream("POST", self._url, content=content, headers=_JSON) as response:
            if response.status_code != httpx.codes.OK:
                text = (await response.aread()).decode(errors="replace")
                raise Diverged(f"the server answered {response.status_code}: {text[:500]}")
            return await _read(response, sent)


async def _read(response: httpx.Response, sent: float) -> Said:
    said = Collected()
    async for line in response.aiter_lines():
        if not line.startswith("data: ") or line == "data: [DONE]":
            continue
        said.stamp()
        chunk = json.loads(line[6:])
        if "error" in chunk:
            raise Diverged(f"a turn was not answered: {chunk['error']}")
        said.add(chunk)
    return Said(
        rid=said.rid,
        sent=sent,
        first=said.first,
        ended=said.ended,
        prompt=said.prompt,
        cached=said.cached,
        output=said.completion,
        content=said.content,
        calls=said.calls,
    )
