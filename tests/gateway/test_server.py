"""The HTTP server over real sockets: hang-ups, slow and dishonest clients, its own end."""

import contextlib
import socket
from collections.abc import AsyncIterator

import anyio
import httpx
import pytest
from anyio.abc import SocketStream

from sglang_paste.calls import TenantId, ToolCall
from sglang_paste.errors import ConfigError, Unavailable
from sglang_paste.execute.base import Outcome
from sglang_paste.gateway import http
from sglang_paste.gateway.api import Answer, Health, Offer
from sglang_paste.gateway.auth import Auth
from sglang_paste.gateway.server import bind, serving
from sglang_paste.observe.spans import Span

DEADLINE = 20.0
POST = b"POST /v1/tools/read HTTP/1.1\r\nhost: localhost\r\n"


class Ticket:
    """A call that ends when the client leaves or the test says so."""

    def __init__(self) -> None:
        self.asked, self.go, self.left = anyio.Event(), anyio.Event(), False

    def ready(self) -> Answer | None:
        return None

    async def wait(self) -> Answer:
        self.asked.set()
        await self.go.wait()
        if self.left:
            raise Unavailable("the client left")
        return Answer(outcome=Outcome(content="late"), how="run", waited=1.0)

    def leave(self) -> None:
        self.left = True
        self.go.set()


class Desk:
    def __init__(self) -> None:
        self.ticket = Ticket()
        self.problems: list[str] = []
        self.refusal = anyio.Event()

    def offers(self) -> list[Offer]:
        return []

    def call(self, call: ToolCall) -> Ticket:
        return self.ticket

    def refused(self, kind: str) -> None:
        self.problems.append(kind)
        self.refusal.set()

    def spans(self, tenant: TenantId) -> list[Span]:
        return []

    def health(self) -> Health:
        return Health(status="ok", engine_alive=False, tools=0)

    def metrics(self) -> bytes:
        return b""


@contextlib.asynccontextmanager
async def gateway(desk: Desk) -> AsyncIterator[int]:
    with contextlib.closing(bind("127.0.0.1", 0)) as listener, anyio.fail_after(DEADLINE):
        async with serving(desk, Auth("127.0.0.1", None, {}), listener, grace=1):
            yield listener.getsockname()[1]


async def sent(port: int, data: bytes) -> SocketStream:
    stream = await anyio.connect_tcp("127.0.0.1", port)
    await stream.send(data)
    return stream


def test_a_client_that_hangs_up_is_noticed() -> None:
    async def main() -> None:
        desk = Desk()
        async with gateway(desk) as port:
            stream = await sent(port, POST + b"content-length: 2\r\n\r\n{}")
            await desk.ticket.asked.wait()
            assert not desk.ticket.left
            await stream.aclose()
            await desk.ticket.go.wait()
            assert desk.ticket.left

    anyio.run(main)


def test_a_client_that_stops_talking_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "BODY_SECONDS", 0.05)

    async def main() -> None:
        desk = Desk()
        async with gateway(desk) as port:
            slow = await sent(port, POST + b"content-length: 100\r\n\r\n{")
            assert b" 408 " in await slow.receive()
            await slow.aclose()
            desk.refusal = anyio.Event()
            gone = await sent(port, POST + b"content-length: 100\r\n\r\n{")
            await gone.aclose()
            await desk.refusal.wait()
            assert desk.problems == ["bad_request", "bad_request"]

    anyio.run(main)


def test_a_dishonest_length_does_not_help() -> None:
    async def main() -> None:
        desk = Desk()
        async with gateway(desk) as port:
            stream = await sent(port, POST + b"transfer-encoding: chunked\r\n\r\n")
            answer = b""
            with contextlib.suppress(anyio.BrokenResourceError):
                while not answer:
                    await stream.send(b"100000\r\n" + b" " * 0x100000 + b"\r\n")
                    with anyio.move_on_after(0.001):
                        answer = await stream.receive()
            assert b" 413 " in answer
            await stream.aclose()

    anyio.run(main)


def test_what_is_under_way_at_the_end_is_answered() -> None:
    async def main() -> None:
        desk, answers = Desk(), []

        async def ask(port: int) -> None:
            async with httpx.AsyncClient(timeout=DEADLINE) as client:
                answers.append(await client.post(f"http://localhost:{port}/v1/tools/read"))

        async with anyio.create_task_group() as tasks, gateway(desk) as port:
            tasks.start_soon(ask, port)
            await desk.ticket.asked.wait()
            tasks.start_soon(finish, desk)
        assert [answer.json()["content"] for answer in answers] == ["late"]
        with pytest.raises(OSError, match="onnect"):
            await anyio.connect_tcp("127.0.0.1", port)

    async def finish(desk: Desk) -> None:
        desk.ticket.go.set()

    anyio.run(main)


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.7"])
def test_an_address_that_is_not_ours_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match="gateway"):
        bind(host, 0)


def test_a_port_in_use_is_refused() -> None:
    with contextlib.closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigError, match="another port"):
            bind("127.0.0.1", taken.getsockname()[1])
