"""What the gateway asks of the desk that answers its calls."""

from typing import Literal, Protocol

import msgspec

from sglang_paste.calls import TenantId, ToolCall
from sglang_paste.config import Effect, JsonSchema
from sglang_paste.execute.base import Outcome
from sglang_paste.observe.spans import Span

How = Literal["reused", "joined", "promoted", "run", "replayed"]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An authoritative call's outcome, how it came about, and what this caller waited for it in seconds."""

    outcome: Outcome
    how: How
    waited: float


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """A tool as it is listed."""

    name: str
    description: str
    parameters: JsonSchema
    effect: Effect
    may_run_early: bool
    why_not: str | None


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """Whether calls are answered, and whether an engine is heard."""

    status: Literal["ok", "stopping"]
    engine_alive: bool
    tools: int


class Ticket(Protocol):
    """A call that was accepted."""

    def ready(self) -> Answer | None:
        """The answer where it is already there."""

    async def wait(self) -> Answer:
        """The answer; raises CallError where there will be none."""

    def leave(self) -> None:
        """The caller is gone; a call that nobody else needs is cancelled. Idempotent, nothing once it is ready."""


class Desk(Protocol):
    """Where authoritative calls are answered."""

    def offers(self) -> list[Offer]:
        """The configured tools."""

    def call(self, call: ToolCall) -> Ticket:
        """Accept a call; raises CallError where it cannot be run as asked."""

    def refused(self, kind: str) -> None:
        """Count a request that never became a call."""

    def spans(self, tenant: TenantId) -> list[Span]:
        """The tenant's recent spans."""

    def health(self) -> Health:
        """The state to be shown."""

    def metrics(self) -> bytes:
        """Everything in Prometheus's text format."""
