"""An agent as a client of the chat API: it streams an answer, runs the tool it calls, and sends everything back."""

import http.client
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, Protocol

import msgspec

from bench.forced import FORCED_IDS
from bench.stream import Collected, assistant_message
from bench.turns.script import Script, Step
from bench.turns.session import TOOLS

TIMEOUT_S = 600.0
_DATA = b"data: "


class Encode(Protocol):
    """A tokenizer."""

    def __call__(self, text: str) -> Sequence[int]: ...


class Turn(msgspec.Struct, frozen=True):
    """What the client saw of a turn; `sent`, `first` and `ended` are seconds of the monotonic clock."""

    number: int
    rid: str
    sent: float
    first: float
    ended: float
    prompt: int
    cached: int
    completion: int
    content: str
    calls: tuple[tuple[str, str, str], ...]


class Agent:
    """A session of one script with one server."""

    def __init__(self, port: int, script: Script, encode: Encode, end: int) -> None:
        self._port = port
        self._steps = script.steps
        self._encode, self._end = encode, end
        self._messages: list[dict[str, Any]] = [{"role": "system", "content": script.system}]
        self._call = ""
        self._came_back = 0.0
        self._size = 0
        self.turns: list[Turn] = []

    @property
    def length(self) -> int:
        """How many turns the script has."""
        return len(self._steps)

    def arrive(self) -> None:
        """Begin: the first step is as far away from now as it says."""
        self._came_back = time.monotonic()

    def wait(self) -> None:
        """Be away for as long as the tool runs."""
        step = self._steps[len(self.turns)]
        time.sleep(max(0.0, self._came_back + step.absence - time.monotonic()))

    def turn(self) -> Turn:
        """The next turn of the script. Raises SystemExit where the answer is not the scripted one."""
        step, body = self._steps[len(self.turns)], self._body()
        with self._connected() as connection:
            turn = self._answer(connection, body)
        wanted = (step.answer.strip(), [] if step.call is None else [step.call[0]], self._size)
        if (turn.content.strip(), [name for _, name, _ in turn.calls], turn.completion) != wanted:
            raise SystemExit(f"turn {turn.number} answered {turn.content!r} and {turn.calls}, not {wanted}")
        self._messages += [self._arrival(), assistant_message(turn.content, turn.calls)]
        self._call = turn.calls[0][0] if turn.calls else ""
        self._came_back = turn.ended
        self.turns.append(turn)
        return turn

    def bring(self, content: str) -> None:
        """Come back with this the next time, and not with what the script says."""
        step = self._steps[len(self.turns)]
        brought = Step(content, step.answer, step.absence, step.call)
        self._steps = (*self._steps[: len(self.turns)], brought, *self._steps[len(self.turns) + 1 :])

    def leave(self, lines: int, before: Callable[[str], None] = lambda rid: None) -> None:
        """Begin the next turn and leave after so many lines of its answer, having told `before` the request's id."""
        with self._connected() as connection:
            response = self._send(connection, self._body())
            chunks = [line for _ in range(lines) if (line := response.readline()).startswith(_DATA + b"{")]
            if chunks:
                before(json.loads(chunks[-1][len(_DATA) :])["id"])

    def _arrival(self) -> dict[str, Any]:
        content = self._steps[len(self.turns)].arrives
        if self._call:
            return {"role": "tool", "tool_call_id": self._call, "content": content}
        return {"role": "user", "content": content}

    def _body(self) -> bytes:
        tokens = [*self._encode(self._steps[len(self.turns)].said), self._end]
        self._size = len(tokens)
        body = {
            "model": "default",
            "messages": [*self._messages, self._arrival()],
            "tools": TOOLS,
            "temperature": 0,
            "max_tokens": len(tokens),
            "stream": True,
            "stream_options": {"include_usage": True},
            "custom_params": {FORCED_IDS: tokens},
        }
        return json.dumps(body).encode()

    @contextmanager
    def _connected(self) -> Iterator[http.client.HTTPConnection]:
        """A new connection: the server closes one that was idle for some seconds, as they are while a tool runs."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)
        connection.connect()
        with closing(connection):
            yield connection

    def _send(self, connection: http.client.HTTPConnection, body: bytes) -> http.client.HTTPResponse:
        connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise SystemExit(f"the server answered {response.status}: {response.read().decode()[:500]}")
        return response

    def _answer(self, connection: http.client.HTTPConnection, body: bytes) -> Turn:
        sent = time.monotonic()
        response = self._send(connection, body)
        said = Collected()
        while line := response.readline():
            if not line.startswith(_DATA):
                continue
            said.stamp()
            if line.strip() == b"data: [DONE]":
                continue
            chunk = json.loads(line[len(_DATA) :])
            if "error" in chunk:
                raise SystemExit(f"turn {len(self.turns)} was not answered: {chunk['error']}")
            said.add(chunk)
        return Turn(
            number=len(self.turns),
            rid=said.rid,
            sent=sent,
            first=said.first,
            ended=said.ended,
            prompt=said.prompt,
            cached=said.cached,
            completion=said.completion,
            content=said.content,
            calls=said.calls,
        )
