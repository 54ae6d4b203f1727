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
# A client's connection outlives the turns in which the model thinks.
KEEP_ALIVE_S = 120
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
            timeout_keep_alive=KEEP_ALIVE_S,
            backlog=_BACKLOG,
            timeout_graceful_shutdown=max(1, round(grace)),
        )
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.run_shielded, [listener])
        await server.running.wait()
        if not server.started:
            raise RuntimeError("the gateway did not start; its log says why")
        try:
            yield
        finally:
            server.should_exit = True
            with anyio.move_on_after(grace + 5, shield=True):
                await server.stopped.wait()
            server.force.cancel()


class _Server(uvicorn.Server):
    """Signals belong to the side process, and a cancellation around it must not keep it from closing its sockets."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.running = anyio.Event()
        self.stopped = anyio.Event()
        self.force = anyio.CancelScope(shield=True)

    async def run_shielded(self, sockets: list[socket.socket]) -> None:
        """Serve until `should_exit` or `force`."""
        try:
            with self.force:
                await self.serve(sockets)
        finally:
            self.running.set()
            self.stopped.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.running.set()
