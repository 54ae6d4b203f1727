"""What every executor looks like to the side process."""

from typing import Any, Literal, Protocol

import msgspec

from sglang_paste.calls import ToolCall

Failure = Literal["timeout", "crashed", "cancelled", "unavailable"]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a run came to.

    `content` is the text the caller gets (invalid UTF-8 replaced, cut at the tool's output limit and then
    `truncated`). `is_error` says that the tool itself reported an error, which is a result like any other.
    `failure` says that there is no result: the run hung, died, was cancelled or could not start, and `content`
    is one sentence about it. `structured` is the tool's JSON result where it has one.
    """

    content: str
    is_error: bool = False
    failure: Failure | None = None
    truncated: bool = False
    structured: Any = None
    duration: float = 0.0


class Run(Protocol):
    """A tool at work."""

    async def wait(self) -> Outcome:
        """The outcome, as often as it is asked for; never raises for what the tool does."""

    def promote(self) -> None:
        """Give a speculative run normal OS priority, because somebody waits for it now."""

    async def cancel(self) -> None:
        """Stop the tool with all it has started, and return when it is gone. Idempotent."""


class Executor(Protocol):
    """Runs the calls of one tool, or of one server's tools."""

    async def open(self) -> None:
        """Start what must be warm; raises ConfigError where the tool cannot be used."""

    async def close(self) -> None:
        """Stop everything. Idempotent."""

    def launch(self, call: ToolCall, *, speculative: bool) -> Run:
        """Start a run; a speculative one at the lowest OS priority. Arguments are already validated."""
