"""How much may run early, and what gives way to authoritative calls."""

from collections.abc import Iterable, Mapping

from sglang_paste.config import Limits, Policy
from sglang_paste.speculate.entries import Entry


def effective_limits(limits: Limits, budget: int | None) -> Limits:
    """The limits of tools.toml with the launcher's `--tool-speculation-budget` in place of the global one."""
    raise NotImplementedError


def to_preempt(tool: str, policy: Policy, executing: Iterable[Entry], authoritative: Mapping[str, int]) -> Entry | None:
    """The speculative run to cancel before an authoritative call of `tool` starts; None where there is room, or nothing
    to cancel. `authoritative` counts the running authoritative calls by tool, joined entries not among them."""
    raise NotImplementedError
