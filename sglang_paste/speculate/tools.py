"""The tools as the side process sees them, whatever runs them."""

from typing import Protocol

from sglang_paste.calls import Arguments, ToolCall
from sglang_paste.config import Policy
from sglang_paste.execute.base import Run
from sglang_paste.execute.catalog import ToolInfo


class Tools(Protocol):
    """What `execute.catalog.Catalog` offers while it is open. The tools may change meanwhile."""

    def tools(self) -> list[ToolInfo]:
        """All tools that can be called now, by name."""

    def tool(self, name: str) -> ToolInfo:
        """The tool of that name; raises UnknownTool."""

    def validate(self, name: str, arguments: Arguments) -> None:
        """Raises UnknownTool, or BadArguments."""

    def why_not_early(self, name: str) -> str | None:
        """Why the tool never runs early, in one sentence; None where it may."""

    def launch(self, call: ToolCall, *, speculative: bool) -> Run:
        """Start a run of a validated call."""


def refresh(policies: dict[str, Policy], tools: Tools) -> None:
    """Bring `policies` in line with the tools there are now."""
    current = {tool.name: tool.policy for tool in tools.tools()}
    for name in policies.keys() - current.keys():
        del policies[name]
    policies.update(current)
