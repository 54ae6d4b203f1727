"""The tools of a tools.toml, ready to run."""

import difflib
from typing import Literal

import msgspec

from sglang_paste.calls import Arguments, ToolCall
from sglang_paste.config import JsonSchema, Policy, ToolConfig
from sglang_paste.errors import UnknownTool
from sglang_paste.execute.base import Run
from sglang_paste.execute.load import load_config

__all__ = ["Catalog", "ToolInfo", "load_config"]

Kind = Literal["python", "command", "mcp", "http"]


class ToolInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A tool as it is offered. `parameters` is the JSON Schema of its arguments; `hints` are what an MCP server says
    of its own tool, for the operator to read and never a permission."""

    name: str
    description: str
    parameters: JsonSchema
    policy: Policy
    kind: Kind
    hints: tuple[str, ...] = ()


class Catalog:
    """All tools of a configuration behind one interface."""

    def __init__(self, config: ToolConfig) -> None:
        self._config = config
        self._tools: dict[str, ToolInfo] = {}

    async def open(self) -> None:
        """Start what must be warm, list the MCP servers' tools and prove the sandbox; raises ConfigError."""

    async def close(self) -> None:
        """Stop every run and every process. Idempotent."""

    def tools(self) -> list[ToolInfo]:
        """All tools that can be called now, by name."""
        return sorted(self._tools.values(), key=lambda tool: tool.name)

    def tool(self, name: str) -> ToolInfo:
        """The tool of that name; raises UnknownTool."""
        if name not in self._tools:
            near = difflib.get_close_matches(name, self._tools, n=3)
            raise UnknownTool(
                f"there is no tool {name!r}; " + (f"did you mean {' or '.join(near)}?" if near else "see GET /v1/tools")
            )
        return self._tools[name]

    def validate(self, name: str, arguments: Arguments) -> None:
        """Raises UnknownTool, or BadArguments with the path and the fault where the arguments fail the schema."""
        raise NotImplementedError

    def why_not_early(self, name: str) -> str | None:
        """Why the tool never runs early, in one sentence; None where it may."""
        raise NotImplementedError

    def launch(self, call: ToolCall, *, speculative: bool) -> Run:
        """Start a run of a validated call; a speculative one at the lowest OS priority."""
        raise NotImplementedError
