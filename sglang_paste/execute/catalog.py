"""The tools of a tools.toml, ready to run."""

import asyncio
import difflib
import logging

from sglang_paste.calls import Arguments, ToolCall, canonical
from sglang_paste.config import CommandTool, HttpTool, LocalTool, PythonTool, ToolConfig
from sglang_paste.errors import ConfigError, UnknownTool
from sglang_paste.execute.base import Run
from sglang_paste.execute.canary import prove_sandbox
from sglang_paste.execute.command import CommandExecutor
from sglang_paste.execute.http import HttpExecutor
from sglang_paste.execute.load import load_config
from sglang_paste.execute.mcp_client import McpExecutor
from sglang_paste.execute.offers import Offer, ToolInfo
from sglang_paste.execute.process import adopt_orphans
from sglang_paste.execute.python_tool import PythonExecutor
from sglang_paste.execute.runs import TaskRun
from sglang_paste.policy import policy_of

__all__ = ["Catalog", "ToolInfo", "load_config"]

logger = logging.getLogger(__name__)

Executor = CommandExecutor | PythonExecutor | HttpExecutor | McpExecutor


class Catalog:
    """All tools of a configuration behind one interface."""

    def __init__(self, config: ToolConfig) -> None:
        self._config = config
        self._executors: dict[str, Executor] = {}
        self._servers: dict[str, McpExecutor] = {}
        self._offers: dict[str, Offer] = {}
        self._runs: set[TaskRun] = set()
        self._refusal: str | None = None

    async def open(self) -> None:
        """Start what must be warm, list the MCP servers' tools and prove the sandbox; raises ConfigError."""
        adopt_orphans()
        if any(isinstance(tool, LocalTool) and tool.sandbox for tool in self._config.tools.values()):
            self._refusal = await prove_sandbox()
        if self._refusal is not None:
            logger.error("no tool runs in a sandbox here: %s", self._refusal)
        opening = [self._open_tool(name, tool) for name, tool in self._config.tools.items()]
        opening += [self._open_server(name) for name in self._config.mcp]
        results = await asyncio.gather(*opening, return_exceptions=True)
        try:
            for fault in results:
                if fault is not None:
                    raise fault
            self._check_names()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Stop every run, every process that is kept warm and every connection. Idempotent."""
        await asyncio.gather(*(run.cancel() for run in list(self._runs)))
        executors = [*self._executors.values(), *self._servers.values()]
        await asyncio.gather(*(executor.close() for executor in executors))

    def tools(self) -> list[ToolInfo]:
        """All tools that can be called now, by name."""
        offers = [
            *self._offers.values(),
            *(offer for server in self._servers.values() for offer in server.offers.values()),
        ]
        return sorted((offer.info for offer in offers), key=lambda tool: tool.name)

    def tool(self, name: str) -> ToolInfo:
        """The tool of that name; raises UnknownTool."""
        return self._offer(name).info

    def validate(self, name: str, arguments: Arguments) -> None:
        """Raises UnknownTool, or BadArguments with the path and the fault where the tool cannot be given these."""
        canonical(arguments)
        self._offer(name).schema.check(name, arguments)
        self._executor(name).check(arguments)

    def why_not_early(self, name: str, arguments: Arguments | None = None) -> str | None:
        """Why the tool, or this call of it, never runs early, in one sentence; None where it may."""
        own = self.tool(name).policy
        policy = own if arguments is None else policy_of(own, arguments)
        if policy.effect == "write":
            but = ", but for calls that reads_when tells" if own.reads_when else ""
            return f"its effect is write{but}, and what was written early could not be taken back"
        if not policy.speculate:
            return "speculate is not set"
        if policy.observes == "external" and not policy.disclose:
            return 'it is observed outside (observes = "external"), and disclose is not set'
        if isinstance(policy, LocalTool):
            if not policy.sandbox:
                return "its sandbox is switched off"
            return f"there is no sandbox here: {self._refusal}" if self._refusal is not None else None
        return None

    def launch(self, call: ToolCall, *, speculative: bool) -> Run:
        """Start a run of a validated call, a speculative one at the lowest OS priority; raises UnknownTool.

        It waits its turn where the tool's `concurrency` is used up, authoritative runs before speculative ones.
        Its time limit and its duration count from its real start.
        """
        self._offer(call.tool)
        run = self._executor(call.tool).launch(call, speculative=speculative)
        self._runs.add(run)
        run.when_done(lambda: self._runs.discard(run))
        return run

    async def _open_tool(self, name: str, tool: PythonTool | CommandTool | HttpTool) -> None:
        if isinstance(tool, PythonTool):
            python = PythonExecutor(name, tool, self._config.folder, self._refusal)
            self._executors[name] = python
            self._offers[name] = await python.open()
            return
        executor = (
            CommandExecutor(name, tool, self._refusal) if isinstance(tool, CommandTool) else HttpExecutor(name, tool)
        )
        self._executors[name] = executor
        await executor.open()
        info = ToolInfo(
            name=name,
            description=tool.description,
            parameters=tool.parameters or {"type": "object"},
            policy=tool,
            kind="command" if isinstance(tool, CommandTool) else "http",
            remote=isinstance(tool, HttpTool),
        )
        self._offers[name] = Offer(info, f"tools.{name}")

    async def _open_server(self, name: str) -> None:
        server = McpExecutor(name, self._config.mcp[name], self._config.folder)
        self._servers[name] = server
        await server.open()

    def _check_names(self) -> None:
        for name in self._offers:
            server = self._server_of(name)
            if server is not None and name in server.offers:
                raise ConfigError(f"tools.{name} has the name of a tool of an MCP server; rename one of them")

    def _server_of(self, name: str) -> McpExecutor | None:
        return self._servers.get(name.partition("__")[0]) if "__" in name else None

    def _offer(self, name: str) -> Offer:
        server = self._server_of(name)
        offer = self._offers.get(name) or (server.offers.get(name) if server is not None else None)
        if offer is None:
            near = difflib.get_close_matches(name, [tool.name for tool in self.tools()], n=3)
            advice = f"did you mean {' or '.join(near)}?" if near else "GET /v1/tools lists those there are"
            raise UnknownTool(f"there is no tool {name[:80]!r}; {advice}")
        return offer

    def _executor(self, name: str) -> Executor:
        return self._executors[name] if name in self._executors else self._servers[name.partition("__")[0]]
