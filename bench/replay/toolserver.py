"""The recorded tools over HTTP. A tool's work is to wait; its waiting is its recorded time."""

import asyncio
import socket
from collections import defaultdict
from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager, contextmanager
from urllib.parse import unquote

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from bench.ports import free_port
from bench.replay.world import World
from sglang_paste.calls import parse_arguments

SESSION_HEADER = "x-session"
# What stands before it names another session, for which nothing was predicted; the world is the same.
OTHER = ":"
# What a tool can do at once, whoever asks.
CONCURRENCY = 16


class ToolServer:
    """Answers for the world that it is given; on both sides the same."""

    def __init__(self) -> None:
        self.port = free_port()
        self.world = World({})
        self._places: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(CONCURRENCY))

    def url(self, tool: str) -> str:
        return f"http://127.0.0.1:{self.port}/{tool}"

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Serve in this process. Who asks before all is ready waits."""
        app = Starlette(routes=[Route("/{tool}", self._call, methods=["POST"])])
        server = _Server(uvicorn.Config(app, log_level="critical", lifespan="off", access_log=False))
        with socket.create_server(("127.0.0.1", self.port), backlog=256) as listening:
            task = asyncio.create_task(server.serve([listening]))
            try:
                yield
            finally:
                server.should_exit = server.force_exit = True
                await task

    async def _call(self, request: Request) -> Response:
        tool = request.path_params["tool"]
        session = unquote(request.headers[SESSION_HEADER]).rpartition(OTHER)[2]
        world = self.world
        async with self._places[tool]:
            run = world.execute(session, tool, parse_arguments(await request.body()))
            await asyncio.sleep(run.seconds)
            world.ended(session, run)
        return PlainTextResponse(run.content)


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Ctrl-C is for the bench."""
        yield
