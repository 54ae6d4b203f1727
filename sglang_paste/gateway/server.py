"""The gateway's HTTP server, inside the side process's own event loop."""

import contextlib
import socket
from collections.abc import AsyncIterator, Iterator

import anyio
import uvicorn
from starlette.applications import Starlette

from sglang_paste.errors import ConfigError
from sglang_paste.gateway.api import Desk
from sglang_paste.gateway.auth import Auth
from sglang_paste.gateway.http import MAX_CALLS, Gateway
from sglang_paste.gateway.mcp import McpGateway

MAX_CONNECTIONS = 2048
_BACKLOG = 512


def bind(host: str, port: int) -> socket.socket:
    """The gateway's socket, which does not listen yet; port 0 takes a free one. Raises ConfigError where it cannot be
    had."""
    try:
        [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"the gateway's host {host!r} cannot be used ({error}); name an address of ours") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"the gateway cannot listen on {host}:{port} ({error}); stop what is there or choose another port"
        ) from error
    return listener


@contextlib.asynccontextmanager
async def serving(desk: Desk, auth: Auth, listener: socket.socket, *, grace: float) -> AsyncIterator[None]:
    """Serve while inside; on the way out no new request is taken and running ones get `grace` seconds."""
    mcp = McpGateway(desk)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with mcp.running():
            yield

    server = _Server(
        uvicorn.Config(
            Gateway(desk, auth, mcp.asgi, max_calls=MAX_CALLS).app(lifespan),
            lifespan="on",
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            backlog=_BACKLOG,
            timeout_graceful_shutdown=max(1, round(grace)),
        )
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, [listener])
        await server.running.wait()
        try:
            yield
        finally:
            server.should_exit = True
            # serve() sees the flag within its 0.1 s tick; the group waits for it, also when we are being cancelled.
            with anyio.CancelScope(shield=True), anyio.move_on_after(grace + 5):
                await server.stopped.wait()
            tasks.cancel_scope.cancel()


class _Server(uvicorn.Server):
    """Signals belong to the side process, and it wants to know when requests are answered."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.running = anyio.Event()
        self.stopped = anyio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.running.set()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().serve(sockets)
        finally:
            self.stopped.set()
