"""The routes: every answer and every refusal is JSON, and says what is wrong."""

import json
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_paste.calls import DEFAULT_TENANT, TenantId, ToolCall
from sglang_paste.errors import BadArguments, CallError, OutcomeUnknown, Unavailable, UnknownTool
from sglang_paste.execute.base import Outcome
from sglang_paste.gateway.api import Answer, Health, Offer, Ticket
from sglang_paste.gateway.auth import Auth, Caller
from sglang_paste.gateway.http import MAX_BODY_BYTES, Gateway, read_call
from sglang_paste.gateway.problems import Problem
from sglang_paste.observe.spans import Span


class FakeTicket:
    def __init__(self, answer: Answer | CallError | None, at_once: bool = True) -> None:
        self.answer, self.at_once, self.left = answer, at_once, 0
        self.waiting = anyio.Event()

    def ready(self) -> Answer | None:
        return self.answer if self.at_once and isinstance(self.answer, Answer) else None

    async def wait(self) -> Answer:
        self.waiting.set()
        if self.answer is None:
            await anyio.sleep_forever()
        if isinstance(self.answer, CallError):
            raise self.answer
        assert self.answer is not None
        return self.answer

    def leave(self) -> None:
        self.left += 1


class FakeDesk:
    def __init__(self) -> None:
        self.calls: list[ToolCall] = []
        self.problems: list[str] = []
        self.answer: Ticket | CallError = FakeTicket(said("hello"))

    def offers(self) -> list[Offer]:
        schema = {"type": "object", "properties": {"path": {"type": "string"}}}
        rest: dict[str, Any] = {"parameters": schema, "effect": "read", "may_run_early": False, "why_not": "no"}
        return [Offer(name="read", description="Reads.", **rest)]

    def call(self, call: ToolCall) -> Ticket:
        self.calls.append(call)
        if isinstance(self.answer, CallError):
            raise self.answer
        return self.answer

    def refused(self, kind: str) -> None:
        self.problems.append(kind)

    def spans(self, tenant: TenantId) -> list[Span]:
        return [Span(tenant=tenant, session="s", lane="tool", name="read", detail="{}", start=1.0)]

    def health(self) -> Health:
        return Health(status="ok", engine_alive=False, tools=1)

    def metrics(self) -> bytes:
        return b"paste_up 1\n"


def said(content: str, **rest: Any) -> Answer:
    return Answer(outcome=Outcome(content=content, duration=0.25, **rest), how="reused", waited=0.5)


def asking(
    desk: FakeDesk, ask: Callable[[httpx.AsyncClient], Coroutine[Any, Any, httpx.Response]], **limits: int
) -> httpx.Response:
    async def main() -> httpx.Response:
        app = Gateway(desk, Auth("127.0.0.1", "key", {}), **limits).app()
        headers = {"authorization": "Bearer key"}
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=headers) as client:
            return await ask(client)

    return anyio.run(main)


def post(desk: FakeDesk, body: Any, name: str = "read", **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return asking(desk, lambda client: client.post(f"/v1/tools/{name}", content=content, headers=headers))


def problem(response: httpx.Response) -> tuple[int, str]:
    error = response.json()["error"]
    assert set(error) == {"type", "message"}
    assert error["message"]
    return response.status_code, error["type"]


def test_a_call_is_answered() -> None:
    desk = FakeDesk()
    response = post(desk, {"arguments": {"path": "ü"}, "session": "s", "call_id": "c"}, **{"x-tenant": "t"})
    assert response.status_code == 200
    assert response.json() == {
        "content": "hello",
        "is_error": False,
        "truncated": False,
        "structured": None,
        "outcome": "reused",
        "duration_s": 0.25,
        "waited_s": 0.5,
    }
    assert desk.calls == [
        ToolCall(tenant=TenantId("t"), tool="read", arguments={"path": "ü"}, session="s", call_id="c")
    ]


@pytest.mark.parametrize("body", [b"", b"{}", b'{"arguments": {}}', b'{"session": null}'])
def test_arguments_may_be_left_out(body: bytes) -> None:
    desk = FakeDesk()
    assert post(desk, body).status_code == 200
    assert desk.calls == [ToolCall(tenant=DEFAULT_TENANT, tool="read", arguments={})]


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"{", "bad_request"),
        (b"[]", "bad_request"),
        (b"null", "bad_request"),
        (b"\xff\xfe", "bad_request"),
        (b'{"argument": {}}', "bad_request"),
        (b'{"arguments": {}, "call_id": 7}', "bad_request"),
        (b'{"arguments": {}, "call_id": ""}', "bad_request"),
        (b'{"arguments": {}, "session": "' + b"x" * 600 + b'"}', "bad_request"),
        (b'{"arguments": []}', "bad_arguments"),
        (b'{"arguments": "{}"}', "bad_arguments"),
        (b'{"arguments": null}', "bad_arguments"),
        (b'{"arguments": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}", "bad_request"),
    ],
)
def test_what_cannot_be_read_is_said(body: bytes, kind: str) -> None:
    desk = FakeDesk()
    assert problem(post(desk, body)) == (400, kind)
    assert desk.problems == [kind]
    assert not desk.calls


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UnknownTool("x"), (404, "unknown_tool")),
        (BadArguments("x"), (400, "bad_arguments")),
        (OutcomeUnknown("x"), (409, "outcome_unknown")),
        (Unavailable("x"), (503, "unavailable")),
        (CallError("x"), (400, "bad_request")),
    ],
)
def test_refusals_have_their_status(error: CallError, expected: tuple[int, str]) -> None:
    desk = FakeDesk()
    desk.answer = error
    assert problem(post(desk, {})) == expected
    desk.answer = FakeTicket(error)
    assert problem(post(desk, {})) == expected
    assert desk.problems == [expected[1]] * 2


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        ("timeout", (504, "tool_timed_out")),
        ("crashed", (502, "tool_crashed")),
        ("cancelled", (503, "cancelled")),
        ("unavailable", (503, "unavailable")),
    ],
)
def test_failures_have_their_status(failure: Any, expected: tuple[int, str]) -> None:
    desk = FakeDesk()
    desk.answer = FakeTicket(said("it is gone", failure=failure), at_once=False)
    response = post(desk, {})
    assert problem(response) == expected
    assert response.json()["error"]["message"] == "it is gone"


def test_a_tool_that_says_error_has_a_result() -> None:
    desk = FakeDesk()
    desk.answer = FakeTicket(said("no such file", is_error=True, truncated=True))
    response = post(desk, {})
    assert response.status_code == 200
    assert (response.json()["is_error"], response.json()["truncated"]) == (True, True)


@pytest.mark.parametrize("structured", [{"n": 2**70}, {"s": "\ud800"}, {"deep": [[[]]]}, [1, None, "ü"]])
def test_any_json_of_a_tool_gets_through(structured: Any) -> None:
    desk = FakeDesk()
    desk.answer = FakeTicket(said("ü\u0000\n", structured=structured))
    response = post(desk, {})
    assert json.loads(response.content)["structured"] == structured


def test_a_body_is_counted_as_it_comes() -> None:
    desk = FakeDesk()
    seen = 0

    async def endless() -> Any:
        nonlocal seen
        while True:
            seen += 1
            yield b" " * 65536

    response = asking(desk, lambda client: client.post("/v1/tools/read", content=endless()))
    assert problem(response) == (413, "too_large")
    assert seen * 65536 < MAX_BODY_BYTES + 3 * 65536


def test_calls_are_bounded() -> None:
    desk = FakeDesk()
    desk.answer = ticket = FakeTicket(None)

    async def main(client: httpx.AsyncClient) -> httpx.Response:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.post, "/v1/tools/read")
            await ticket.waiting.wait()
            response = await client.post("/v1/tools/read")
            tasks.cancel_scope.cancel()
        assert ticket.left
        desk.answer = FakeTicket(said("room again"))
        assert (await client.post("/v1/tools/read")).status_code == 200
        return response

    response = asking(desk, main, max_calls=1)
    assert problem(response) == (503, "unavailable")
    assert response.headers["retry-after"] == "1"


def test_the_lists() -> None:
    desk = FakeDesk()
    [tool] = asking(desk, lambda client: client.get("/v1/tools")).json()["tools"]
    assert tool["name"] == "read"
    assert set(tool) == {"name", "description", "parameters", "effect", "may_run_early", "why_not"}
    response = asking(desk, lambda client: client.get("/v1/spans", headers={"x-tenant": "t"}))
    assert [span["tenant"] for span in response.json()["spans"]] == ["t"]
    assert "paste_up 1" in asking(desk, lambda client: client.get("/metrics")).text


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/nothing", (404, "not_found")),
        ("POST", "/v1/nothing", (404, "not_found")),
        ("DELETE", "/v1/tools", (405, "method_not_allowed")),
        ("GET", "/v1/tools/read", (405, "method_not_allowed")),
    ],
)
def test_other_paths(method: str, path: str, expected: tuple[int, str]) -> None:
    assert problem(asking(FakeDesk(), lambda client: client.request(method, path))) == expected


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/tools"), ("POST", "/v1/tools/read"), ("GET", "/v1/spans"), ("GET", "/metrics")]
)
def test_everything_but_health_is_behind_the_token(method: str, path: str) -> None:
    desk = FakeDesk()
    headers = {"authorization": "Bearer wrong"}
    response = asking(desk, lambda client: client.request(method, path, headers=headers))
    assert problem(response) == (401, "unauthorized")
    assert response.headers["www-authenticate"] == "Bearer"
    assert not desk.calls
    assert asking(desk, lambda client: client.get("/health", headers=headers)).json() == {
        "status": "ok",
        "engine_alive": False,
        "tools": 1,
    }


def test_our_own_mistake_is_json_too() -> None:
    class Broken(FakeDesk):
        def call(self, call: ToolCall) -> Ticket:
            raise RuntimeError("a bug")

    response = post(Broken(), {})
    assert problem(response) == (500, "internal")
    assert "a bug" not in response.text


@given(st.binary(max_size=100) | st.text(max_size=100).map(str.encode))
def test_any_bytes_are_a_call_or_a_refusal(body: bytes) -> None:
    try:
        read_call("read", Caller(DEFAULT_TENANT, operator=True), body)
    except (Problem, BadArguments):
        return
