"""How much may run early, and what gives way to authoritative calls."""

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from sglang_paste.calls import SessionId, TenantId
from sglang_paste.config import Limits, Policy
from sglang_paste.speculate.entries import Entry


def effective_limits(limits: Limits, budget: int | None) -> Limits:
    """The limits of tools.toml with the launcher's `--tool-speculation-budget` in place of the global one."""
    return limits if budget is None else msgspec.structs.replace(limits, speculative=budget)


class Usage:
    """What is at work. A run that a claim has joined counts as authoritative from then on; one that was squashed
    counts as what it was until its tool is gone."""

    def __init__(self, executing: Iterable[Entry], authoritative: Mapping[str, int]) -> None:
        self.total = 0
        self.sessions: Counter[tuple[TenantId, SessionId]] = Counter()
        self.tools: Counter[str] = Counter()
        self.busy: Counter[str] = Counter(authoritative)
        for entry in executing:
            self.add(entry)

    def add(self, entry: Entry) -> None:
        self.busy[entry.tool] += 1
        if not entry.asked:
            self.total += 1
            self.sessions[entry.tenant, entry.session] += 1
            self.tools[entry.tool] += 1

    def has_room(self, entry: Entry, policy: Policy, limits: Limits) -> bool:
        """Whether the entry may run early beside all that is at work."""
        return (
            self.total < limits.speculative
            and self.sessions[entry.tenant, entry.session] < limits.per_session
            and self.tools[entry.tool] < limits.per_tool
            and self.busy[entry.tool] < policy.concurrency
        )


def to_preempt(tool: str, policy: Policy, executing: Iterable[Entry], authoritative: Mapping[str, int]) -> Entry | None:
    """The speculative run to cancel before an authoritative call of `tool` starts; None where there is room, room is
    already being made, or nothing can be cancelled. `authoritative` counts the running authoritative calls by tool,
    joined entries not among them."""
    own = [entry for entry in executing if entry.tool == tool]
    staying = [entry for entry in own if not entry.ended]
    if authoritative.get(tool, 0) + len(staying) < policy.concurrency:
        return None
    return min((entry for entry in staying if not entry.asked), key=lambda entry: entry.worth, default=None)
