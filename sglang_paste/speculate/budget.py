"""How much may run early, and what gives way to authoritative calls."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from sglang_paste.calls import SessionId, TenantId
from sglang_paste.config import Limits, Policy
from sglang_paste.speculate.entries import Entry


def effective_limits(limits: Limits, budget: int | None) -> Limits:
    """The limits of tools.toml with the launcher's `--tool-speculation-budget` in place of the global one."""
    return limits if budget is None else msgspec.structs.replace(limits, speculative=budget)


# How much likelier a call must be to take the place of one that runs: a run that was cut short is a run wasted.
SURER = 0.25


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


def to_supersede(
    waiting: Iterable[Entry],
    executing: Sequence[Entry],
    authoritative: Mapping[str, int],
    policies: Mapping[str, Policy],
    limits: Limits,
) -> Entry | None:
    """The speculative run to cancel for the likeliest call that found no room: the model's own words, read from its
    stream, are a better guess than a habit. None where that makes no room, or where room is already being made."""
    best = max(waiting, key=lambda entry: entry.probability, default=None)
    if best is None or best.tool not in policies or any(entry.ended for entry in executing):
        return None
    doubtful = [entry for entry in executing if not entry.asked and entry.probability + SURER <= best.probability]
    for entry in sorted(doubtful, key=lambda entry: entry.worth):
        rest = Usage((other for other in executing if other is not entry), authoritative)
        if rest.has_room(best, policies[best.tool], limits):
            return entry
    return None
