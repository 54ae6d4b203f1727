"""MCP servers as tools, through the official SDK."""

import asyncio
import functools
import logging
import re
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import httpx2
import mcp
from mcp import types
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client

from sglang_paste.calls import Arguments, ToolCall
from sglang_paste.config import McpServer, Policy
from sglang_paste.errors import ConfigError
from sglang_paste.execute.base import Outcome
from sglang_paste.execute.mcp_content import outcome_of
from sglang_paste.execute.offers import Offer, ToolInfo
from sglang_paste.execute.runs import Gate, TaskRun
from sglang_paste.execute.secrets import expand

logger = logging.getLogger(__name__)

MAX_TOOLS = 1024
FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 30.0
RECONNECT_WAIT_S = 10.0
UNFIT = re.compile(r"[^A-Za-z0-9_-]")


class Lost(Exception):
    """The connection to the server ended."""


class McpExecutor:
    """One server: connected for as long as the catalog is open, and again whenever it comes back."""

    def __init__(self, name: str, server: McpServer, folder: str) -> None:
        """`folder` is where a server over stdio starts."""
        self._name = name
        self._folder = folder
        self._server = server
        self.offers: dict[str, Offer] = {}
        self._remote: dict[str, str] = {}
        self._gates: dict[str, Gate] = {}
        self._client: mcp.Client | None = None
        self._connected = asyncio.Event()
        self._lost = asyncio.Event()
        self._stale = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connect and list the tools; raises ConfigError where that cannot be done in time."""
        headers = expand(self._server.headers, f"mcp.{self._name}.headers")
        environment = expand(self._server.environment, f"mcp.{self._name}.environment")
        connect = functools.partial(_transport, self._server, headers, environment, self._folder)
        self._keeper = asyncio.create_task(self._keep(connect), name=f"mcp {self._name}")
        first = asyncio.create_task(self._connected.wait())
        await asyncio.wait(
            {first, self._keeper}, timeout=self._server.start_timeout_s, return_when=asyncio.FIRST_COMPLETED
        )
        if first.done():
            return
        first.cancel()
        reason = f"it did not answer within {self._server.start_timeout_s:g} s"
        if self._keeper.done():
            reason = _words(self._keeper.exception())
        await self.close()
        raise ConfigError(f"mcp.{self._name} cannot be used: {reason}; start it, correct it or drop it")

    async def close(self) -> None:
        """Disconnect, and end a server that was started here."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)

    def check(self, arguments: Arguments) -> None:
        """The schema says it all."""

    def launch(self, call: ToolCall, *, speculative: bool) -> TaskRun:
        """Send the call to the server."""
        policy = self.offers[call.tool].info.policy
        gate = self._gates.setdefault(call.tool, Gate(policy.concurrency))
        body = functools.partial(self._run, call, policy)
        return TaskRun(call.tool, body, gate=gate, timeout_s=policy.timeout_s, speculative=speculative)

    async def _run(self, call: ToolCall, policy: Policy, _run: TaskRun) -> Outcome:
        # What a lost connection leaves undone is unknown, so only what changes nothing is asked for again.
        attempts = 1 if policy.effect == "write" else 2
        for _ in range(attempts):
            client = await self._wait_for_client(min(RECONNECT_WAIT_S, policy.timeout_s))
            if client is None:
                return Outcome(failure="unavailable", content=f"the MCP server {self._name} is not connected")
            try:
                result = await client.call_tool(self._remote[call.tool], call.arguments)
                return outcome_of(result, policy.output_limit)
            except mcp.MCPError as error:
                if error.error.code != types.CONNECTION_CLOSED:
                    return Outcome(content=f"the MCP server {self._name} refused: {error}", is_error=True)
                self._lost.set()
            except (httpx2.HTTPError, OSError):
                self._lost.set()
            except RuntimeError as error:
                return Outcome(failure="crashed", content=f"the MCP server {self._name} answered improperly: {error}")
            self._connected.clear()
        return Outcome(failure="crashed", content=f"the MCP server {self._name} went away during the call")

    async def _wait_for_client(self, patience_s: float) -> mcp.Client | None:
        with suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                await self._connected.wait()
        return self._client if self._connected.is_set() else None

    async def _keep(self, connect: Callable[[], AbstractAsyncContextManager[Any]]) -> None:
        """Hold the connection, for ever; raises only before the first one stands."""
        delay = FIRST_DELAY_S
        while True:
            try:
                await self._hold(connect)
                delay = FIRST_DELAY_S
            except Exception as error:
                if not self.offers:
                    raise
                logger.warning("mcp.%s: %s; next attempt in %g s", self._name, _words(error), delay)
            await asyncio.sleep(delay)
            delay = min(2 * delay, LONGEST_DELAY_S)

    async def _hold(self, connect: Callable[[], AbstractAsyncContextManager[Any]]) -> None:
        self._lost.clear()
        transport = _Watched(connect(), self._lost.set)
        try:
            async with mcp.Client(transport, message_handler=self._notice, cache=None) as client:
                self._adopt(await _list(client))
                self._client = client
                self._connected.set()
                await self._follow(client)
        finally:
            self._connected.clear()
            self._client = None

    async def _follow(self, client: mcp.Client) -> None:
        """Keep the list of tools fresh until the connection is lost."""
        async with AsyncExitStack() as stack:
            lost = asyncio.create_task(self._lost.wait())
            stack.callback(lost.cancel)
            listener = asyncio.create_task(self._listen(client))
            stack.push_async_callback(_stop, listener)
            while not lost.done():
                stale = asyncio.create_task(self._stale.wait())
                await asyncio.wait({lost, stale}, return_when=asyncio.FIRST_COMPLETED)
                if stale.done() and not lost.done():
                    self._stale.clear()
                    self._adopt(await _list(client))
                stale.cancel()

    async def _listen(self, client: mcp.Client) -> None:
        """Newer servers tell of changes only those who listen."""
        try:
            async with client.listen(tools_list_changed=True) as changes:
                async for _ in changes:
                    self._stale.set()
        except Exception as error:
            logger.debug("mcp.%s tells of no changes: %s", self._name, error)

    async def _notice(self, message: Any) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            self._stale.set()

    def _adopt(self, tools: list[types.Tool]) -> None:
        """Take over the server's list; raises ConfigError where the configuration does not fit it."""
        where = f"mcp.{self._name}"
        listed = {tool.name for tool in tools}
        for name in (*(self._server.only or ()), *self._server.tools):
            if name not in listed:
                raise ConfigError(
                    f"{where} names the tool {name!r}; the server has {', '.join(sorted(listed)) or 'none'}"
                )
        offers: dict[str, Offer] = {}
        remote: dict[str, str] = {}
        for tool in tools:
            if self._server.only is not None and tool.name not in self._server.only:
                continue
            name = f"{self._name}__{UNFIT.sub('_', tool.name)}"
            if name in offers or len(name) > 64:
                fault = "is longer than 64 characters" if len(name) > 64 else "comes twice"
                raise ConfigError(f"{where}: the tool name {name} {fault}; choose with only = [...]")
            info = _info(name, tool, self._server.tools.get(tool.name, Policy()), self._server.url is not None)
            offers[name] = Offer(info, f"{where}: {tool.name}")
            remote[name] = tool.name
        self.offers, self._remote = offers, remote


class _Watched:
    """A transport that tells when its reading side has ended."""

    def __init__(self, transport: AbstractAsyncContextManager[Any], ended: Callable[[], None]) -> None:
        self._transport = transport
        self._ended = ended

    async def __aenter__(self) -> Any:
        read, write = await self._transport.__aenter__()
        return _WatchedStream(read, self._ended), write

    async def __aexit__(self, *exception: Any) -> bool | None:
        return await self._transport.__aexit__(*exception)


class _WatchedStream:
    def __init__(self, stream: Any, ended: Callable[[], None]) -> None:
        self._stream = stream
        self._ended = ended

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def receive(self) -> Any:
        return await self._or_end(self._stream.receive())

    def __aiter__(self) -> "_WatchedStream":
        return self

    async def __anext__(self) -> Any:
        return await self._or_end(self._stream.__anext__())

    async def __aenter__(self) -> "_WatchedStream":
        await self._stream.__aenter__()
        return self

    async def __aexit__(self, *exception: Any) -> bool | None:
        ended: bool | None = await self._stream.__aexit__(*exception)
        return ended

    async def _or_end(self, reading: Awaitable[Any]) -> Any:
        try:
            return await reading
        except Exception:
            self._ended()
            raise


@asynccontextmanager
async def _transport(
    server: McpServer, headers: dict[str, str], environment: dict[str, str], folder: str
) -> AsyncIterator[Any]:
    if server.url is not None:
        timeout = httpx2.Timeout(30.0, read=None)
        client = httpx2.AsyncClient(headers=headers, timeout=timeout)
        async with client, streamable_http_client(server.url, http_client=client) as streams:
            yield streams
        return
    command = list(server.command)
    if leash := shutil.which("setpriv"):
        command = [leash, "--pdeathsig", "KILL", "--", *command]
    parameters = StdioServerParameters(command=command[0], args=command[1:], env=environment, cwd=folder)
    async with stdio_client(parameters, errlog=sys.__stderr__ or sys.stderr) as streams:
        yield streams


async def _list(client: mcp.Client) -> list[types.Tool]:
    tools: list[types.Tool] = []
    cursor = None
    while len(tools) <= MAX_TOOLS:
        page = await client.list_tools(cursor=cursor)
        tools += page.tools
        cursor = page.next_cursor
        if cursor is None:
            return tools
    raise ConfigError(f"the server lists more than {MAX_TOOLS} tools")


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _info(name: str, tool: types.Tool, policy: Policy, remote: bool) -> ToolInfo:
    return ToolInfo(
        name=name,
        description=tool.description or tool.title or "",
        parameters=tool.input_schema,
        policy=policy,
        kind="mcp",
        hints=_hints(tool.annotations),
        remote=remote,
    )


def _hints(annotations: types.ToolAnnotations | None) -> tuple[str, ...]:
    if annotations is None:
        return ()
    says = {
        "read-only": annotations.read_only_hint,
        "destructive": annotations.destructive_hint,
        "idempotent": annotations.idempotent_hint,
        "open world": annotations.open_world_hint,
    }
    return tuple(text if value else f"not {text}" for text, value in says.items() if value is not None)


def _words(error: BaseException | None) -> str:
    """The first real error inside groups of them."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{error}" or type(error).__name__
