"""The MCP endpoint with the official client, of this protocol's era and of the one before, over real sockets."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any, Literal

import anyio
import httpx
import httpx2
import pytest
from anyio.abc import TaskStatus
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from sglang_paste.calls import TenantId, ToolCall
from sglang_paste.errors import BadArguments, CallError, UnknownTool
from sglang_paste.execute.base import Outcome
from sglang_paste.gateway.api import Answer, Health, Offer
from sglang_paste.gateway.auth import Auth
from sglang_paste.gateway.server import bind, serving
from sglang_paste.observe.spans import Span

pytestmark = pytest.mark.parametrize("mode", ["auto", "legacy"])
Mode = Literal["auto", "legacy"]
DEADLINE = 20.0
SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}


class Slow:
    """A call that is answered when the test says so."""

    def __init__(self, answer: Answer | CallError) -> None:
        self.answer = answer
        self.asked, self.go, self.left = anyio.Event(), anyio.Event(), anyio.Event()

    def ready(self) -> Answer | None:
        return None

    async def wait(self) -> Answer:
        self.asked.set()
        await self.go.wait()
        if isinstance(self.answer, CallError):
            raise self.answer
        return self.answer

    def leave(self) -> None:
        self.left.set()


class Desk:
    def __init__(self) -> None:
        self.calls: list[ToolCall] = []
        self.problems: list[str] = []
        self.ticket: Slow | CallError | None = None

    def offers(self) -> list[Offer]:
        rest: dict[str, Any] = {"parameters": SCHEMA, "may_run_early": True, "why_not": None}
        return [
            Offer(name="read", description="Reads a file.", effect="read", **rest),
            Offer(name="write", description="Writes a file.", effect="write", **rest),
        ]

    def call(self, call: ToolCall) -> Slow:
        self.calls.append(call)
        if isinstance(self.ticket, CallError):
            raise self.ticket
        if self.ticket is None:
            self.ticket = Slow(said(f"{call.tool} {call.arguments['path']}", structured={"n": 1}))
            self.ticket.go.set()
        return self.ticket

    def refused(self, kind: str) -> None:
        self.problems.append(kind)

    def spans(self, tenant: TenantId) -> list[Span]:
        return []

    def health(self) -> Health:
        return Health(status="ok", engine_alive=False, tools=2)

    def metrics(self) -> bytes:
        return b""


def said(content: str, **rest: Any) -> Answer:
    return Answer(outcome=Outcome(content=content, duration=0.25, **rest), how="joined", waited=0.5)


@contextlib.asynccontextmanager
async def gateway(desk: Desk, grace: float = 1.0) -> AsyncIterator[str]:
    with contextlib.closing(bind("127.0.0.1", 0)) as listener:
        async with serving(desk, Auth("127.0.0.1", "key", {}), listener, grace=grace):
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextlib.asynccontextmanager
async def connected(url: str, mode: Mode, key: str = "key", tenant: str = "t") -> AsyncIterator[Client]:
    headers = {"authorization": f"Bearer {key}", "x-tenant": tenant}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=DEADLINE) as http,
        Client(streamable_http_client(f"{url}/mcp", http_client=http), mode=mode) as client,
    ):
        yield client


def test_tools_are_listed_and_called(mode: Mode) -> None:
    async def main() -> None:
        desk = Desk()
        with anyio.fail_after(DEADLINE):
            async with gateway(desk) as url, connected(url, mode) as client:
                read, write = (await client.list_tools()).tools
                assert (read.name, read.description, read.input_schema) == ("read", "Reads a file.", SCHEMA)
                assert read.annotations is not None
                assert write.annotations is not None
                assert (read.annotations.read_only_hint, write.annotations.read_only_hint) == (True, False)
                result = await client.call_tool("read", {"path": "ü"}, meta={"session": "s1", "call_id": "c1"})
        assert not result.is_error
        assert [block.text for block in result.content if block.type == "text"] == ["read ü"]
        assert result.structured_content == {"n": 1}
        assert result.meta is not None
        assert result.meta["outcome"] == "joined"
        assert desk.calls == [
            ToolCall(tenant=TenantId("t"), tool="read", arguments={"path": "ü"}, session="s1", call_id="c1")
        ]

    anyio.run(main)


@pytest.mark.parametrize(
    ("error", "kind"), [(UnknownTool("there is none"), "unknown_tool"), (BadArguments("not so"), "bad_arguments")]
)
def test_errors_are_results_with_the_sentence(mode: Mode, error: CallError, kind: str) -> None:
    async def main() -> None:
        desk = Desk()
        with anyio.fail_after(DEADLINE):
            async with gateway(desk) as url, connected(url, mode) as client:
                desk.ticket = error
                refused = await client.call_tool("read", {"path": "a"})
                desk.ticket = Slow(said("it hung", failure="timeout"))
                desk.ticket.go.set()
                failed = await client.call_tool("read", {"path": "a"})
                odd = await client.call_tool("read", {"path": "a"}, meta={"call_id": 7})
        texts = [[block.text for block in r.content if block.type == "text"] for r in (refused, failed, odd)]
        assert texts[:2] == [[str(error)], ["it hung"]]
        assert all(result.is_error for result in (refused, failed, odd))
        assert desk.problems == [kind, "bad_request"]

    anyio.run(main)


def test_the_wrong_token_stays_out(mode: Mode) -> None:
    async def main() -> None:
        desk = Desk()
        async with gateway(desk) as url:
            with pytest.raises((Exception, BaseExceptionGroup)) as raised:
                async with connected(url, mode, key="wrong") as client:
                    await client.list_tools()
            assert raised.value is not None
        assert not desk.calls
        assert set(desk.problems) == {"unauthorized"}

    anyio.run(main)


def test_who_hangs_up_leaves(mode: Mode) -> None:
    async def main() -> None:
        desk = Desk()
        desk.ticket = slow = Slow(said("too late"))

        async def ask(url: str) -> None:
            async with connected(url, mode) as client:
                await client.call_tool("read", {"path": "a"})

        with anyio.fail_after(DEADLINE):
            async with gateway(desk) as url:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(ask, url)
                    await slow.asked.wait()
                    tasks.cancel_scope.cancel()
                await slow.left.wait()

    anyio.run(main)


def test_several_at_once(mode: Mode) -> None:
    async def main() -> None:
        desk = Desk()
        results: dict[int, Any] = {}

        async def one(client: Client, number: int) -> None:
            results[number] = await client.call_tool("read", {"path": str(number)})

        with anyio.fail_after(DEADLINE):
            async with gateway(desk) as url, connected(url, mode) as client, anyio.create_task_group() as tasks:
                for number in range(20):
                    tasks.start_soon(one, client, number)
        assert sorted(call.arguments["path"] for call in desk.calls) == sorted(str(n) for n in range(20))
        assert len(results) == 20

    anyio.run(main)


async def serve(
    desk: Desk, port: int, stop: anyio.Event, stopped: anyio.Event, *, task_status: TaskStatus[int]
) -> None:
    with contextlib.closing(bind("127.0.0.1", port)) as listener:
        async with serving(desk, Auth("127.0.0.1", "key", {}), listener, grace=1):
            task_status.started(listener.getsockname()[1])
            await stop.wait()
    stopped.set()


def test_a_restart_loses_no_client(mode: Mode) -> None:
    async def main() -> None:
        desk = Desk()
        stop, stopped = [anyio.Event(), anyio.Event()], [anyio.Event(), anyio.Event()]
        with anyio.fail_after(DEADLINE):
            async with anyio.create_task_group() as tasks:
                port = await tasks.start(serve, desk, 0, stop[0], stopped[0])
                async with connected(f"http://127.0.0.1:{port}", mode) as client:
                    await client.call_tool("read", {"path": "before"})
                    stop[0].set()
                    await stopped[0].wait()
                    await tasks.start(serve, desk, port, stop[1], stopped[1])
                    desk.ticket = None
                    await client.call_tool("read", {"path": "after"})
                stop[1].set()
        assert [call.arguments["path"] for call in desk.calls] == ["before", "after"]

    anyio.run(main)


def test_other_methods_are_refused(mode: Mode) -> None:
    async def main() -> None:
        headers = {"authorization": "Bearer key", "accept": "text/event-stream"}
        async with gateway(Desk()) as url, httpx.AsyncClient(headers=headers) as client:
            for method in ("GET", "DELETE"):
                assert (await client.request(method, f"{url}/mcp")).status_code == 405

    anyio.run(main)
