"""Isolated results of speculative calls."""

from collections.abc import Mapping

from sglang_paste.calls import SessionId, TenantId, ToolCall
from sglang_paste.config import Limits, Policy
from sglang_paste.events import CallAborted, CallIssued, CallLikely, CallReady, ToolReturned
from sglang_paste.execute.base import Outcome
from sglang_paste.predict.base import Candidate
from sglang_paste.speculate.entries import Claim, Entry, Refusal
from sglang_paste.speculate.epochs import Footprint


class Ledger:
    """Holds the results of speculative calls apart from everybody until an exact match claims them.

    Synchronous and without I/O; `now` is CLOCK_MONOTONIC seconds and never goes back. Every list that a method returns
    holds the entries that ended in it: where `entry.executing`, the caller cancels the run and settles it when it
    is gone.
    """

    def __init__(self, policies: Mapping[str, Policy], limits: Limits) -> None: ...

    def announce(self, event: CallLikely | CallReady | CallIssued, now: float) -> list[Entry]:
        """Remember a call of the engine, so that a claim without session finds its own."""
        raise NotImplementedError

    def withdraw(self, event: CallAborted, now: float) -> list[Entry]:
        """Forget a call that will never be ready, and cancel what was begun for it."""
        raise NotImplementedError

    def returned(self, event: ToolReturned, now: float) -> list[Entry]:
        """Take note that a session has a tool's result. A call that no claim was made for ran elsewhere; where it
        wrote, or the tool is unknown, it counts as a write that has just happened."""
        raise NotImplementedError

    def end_session(self, tenant: TenantId, session: SessionId, now: float) -> list[Entry]:
        """Cancel all that a session has."""
        raise NotImplementedError

    def admit(self, candidate: Candidate, now: float) -> Entry | Refusal:
        """Queue a candidate. One that is there already is not queued twice, but lends it its better odds."""
        raise NotImplementedError

    def queued(self) -> list[Entry]:
        """For `planner.choose`."""
        raise NotImplementedError

    def executing(self) -> list[Entry]:
        """Every entry with a tool at work, ended ones included. For the budget."""
        raise NotImplementedError

    def started(self, entry: Entry, now: float) -> None:
        """A queued entry's run begins; call it in the same step as `Executor.launch`, before it."""
        raise NotImplementedError

    def settled(self, entry: Entry, outcome: Outcome, now: float) -> list[Entry]:
        """A run is over and its tool is gone: exactly once for every `started`, also after a squash. Returns what was
        evicted to make room."""
        raise NotImplementedError

    def claim(self, call: ToolCall, now: float) -> Claim:
        """Match an authoritative call, exactly."""
        raise NotImplementedError

    def collect(self, entry: Entry) -> Outcome | None:
        """What a joined claim gets once the run is settled; None: run the tool yourself. Once per joined claim."""
        raise NotImplementedError

    def abandon(self, entry: Entry, now: float) -> None:
        """A joined claim stops waiting without collecting (its client is gone)."""
        raise NotImplementedError

    def cancel(self, entry: Entry, now: float, why: str) -> None:
        """End a live entry that nobody waits for."""
        raise NotImplementedError

    def begin_write(
        self, call: ToolCall, session: SessionId | None, now: float
    ) -> tuple[Footprint | None, list[Entry]]:
        """An authoritative call is about to run: squash what reads what it writes. The footprint is None for a call
        that writes nothing, else it goes to `end_write`, whatever came of the call."""
        raise NotImplementedError

    def end_write(self, footprint: Footprint | None, now: float) -> list[Entry]:
        """The write is over: squash again."""
        raise NotImplementedError

    def expire(self, now: float) -> list[Entry]:
        """End what nobody asked for in `limits.result_ttl_s` seconds."""
        raise NotImplementedError

    def next_expiry(self) -> float | None:
        """When `expire` has something to do; None while there is nothing."""
        raise NotImplementedError

    def close(self, now: float) -> list[Entry]:
        """Cancel everything."""
        raise NotImplementedError
