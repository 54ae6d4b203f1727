"""The tools as the side process sees them, whatever runs them."""

from typing import Protocol

from sglang_paste.calls import Arguments, ToolCall
from sglang_paste.config import Policy
from sglang_paste.execute.base import Run
from sglang_paste.execute.catalog import ToolInfo
from sglang_paste.predict import ToolShape


class Tools(Protocol):
    """What `execute.catalog.Catalog` offers while it is open. The tools may change meanwhile."""

    def tools(self) -> list[ToolInfo]:
        """All tools that can be called now, by name."""

    def tool(self, name: str) -> ToolInfo:
        """The tool of that name; raises UnknownTool."""

    def validate(self, name: str, arguments: Arguments) -> None:
        """Raises UnknownTool, or BadArguments."""

    def why_not_early(self, name: str, arguments: Arguments | None = None) -> str | None:
        """Why the tool, or this call of it, never runs early, in one sentence; None where it may."""

    def launch(self, call: ToolCall, *, speculative: bool) -> Run:
        """Start a run of a validated call."""


class Known:
    """What is known of the tools there are now, in collections that others hold on to."""

    def __init__(self, tools: Tools) -> None:
        self.policies: dict[str, Policy] = {}
        self.shapes: dict[str, ToolShape] = {}
        self.remote: set[str] = set()
        self._tools = tools
        self.refresh()

    def refresh(self) -> None:
        """Bring them in line with the tools."""
        current = {tool.name: tool for tool in self._tools.tools()}
        for name in self.policies.keys() - current.keys():
            del self.policies[name], self.shapes[name]
        self.remote.clear()
        for name, tool in current.items():
            self.policies[name] = tool.policy
            self.shapes[name] = _shape(tool)
            if tool.remote:
                self.remote.add(name)


def with_inert(tool: ToolInfo, arguments: Arguments) -> Arguments:
    """The arguments, with something in place of required ones that are still to come and cannot change the result."""
    required, properties = tool.parameters.get("required") or (), tool.parameters.get("properties") or {}
    missing = {
        name: properties.get(name, {}).get("default", "")
        for name in tool.policy.inert
        if name in required and name not in arguments
    }
    return {**arguments, **missing} if missing else arguments


def _shape(tool: ToolInfo) -> ToolShape:
    properties = tool.parameters.get("properties")
    return ToolShape(tuple(properties) if isinstance(properties, dict) else (), tool.policy.inert)
