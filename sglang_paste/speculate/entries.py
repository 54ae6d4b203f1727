"""One speculative call in the ledger, and what the ledger answers with."""

from math import inf
from typing import Literal

import msgspec

from sglang_paste.calls import Arguments, SessionId, TenantId
from sglang_paste.errors import LedgerError
from sglang_paste.execute.base import Outcome
from sglang_paste.predict.base import Candidate, RunTime, Source
from sglang_paste.speculate.epochs import Footprint

State = Literal["queued", "running", "ready", "claimed", "squashed", "expired", "failed", "cancelled"]
ClaimKind = Literal["reused", "joined", "promoted", "miss"]
RefusalReason = Literal["unknown tool", "policy", "improbable", "present", "write under way", "no room"]

TRANSITIONS: dict[State, frozenset[State]] = {
    "queued": frozenset({"running", "claimed", "squashed", "expired", "cancelled"}),
    "running": frozenset({"ready", "claimed", "squashed", "failed", "cancelled"}),
    "ready": frozenset({"claimed", "squashed", "expired", "cancelled"}),
}
END_STATES: frozenset[State] = frozenset({"claimed", "squashed", "expired", "failed", "cancelled"})


class Entry(msgspec.Struct, eq=False, kw_only=True):
    """A speculative call. Only the ledger changes it.

    `epoch` counts the writes the ledger had seen when it was admitted; a later one to what it reads ends it.
    `shared` says that its result may serve several claims, because the tool is pure. `waiters` counts the joined
    claims that have not collected yet; `asked` stays true once there was one. `executing` says that a tool is at
    work for it, which can outlast its end by the time a run takes to be cancelled. `size` is the result's in bytes.
    `claimed_in` counts from `predicted_at`. Times are CLOCK_MONOTONIC seconds; `why` tells in a word or two why it
    ended.
    """

    id: int
    tenant: TenantId
    session: SessionId
    epoch: int
    reads: Footprint
    shared: bool
    tool: str
    arguments: Arguments
    key: str
    source: Source
    probability: float
    run_time: RunTime
    claimed_in: float
    predicted_at: float
    expires_at: float = inf
    state: State = "queued"
    why: str = ""
    waiters: int = 0
    asked: bool = False
    executing: bool = False
    outcome: Outcome | None = None
    size: int = 0
    started_at: float | None = None
    settled_at: float | None = None
    ended_at: float | None = None

    @property
    def ended(self) -> bool:
        return self.state in END_STATES

    @property
    def worth(self) -> float:
        """Seconds it is expected to save, before what it may waste."""
        return self.probability * min(self.run_time.p50, self.claimed_in)

    def refresh(self, candidate: Candidate, now: float) -> None:
        """The same call was predicted again; the better odds hold, and of equal ones the newer."""
        if candidate.probability >= self.probability:
            self.probability, self.source = candidate.probability, candidate.source
            self.run_time, self.claimed_in, self.predicted_at = candidate.run_time, candidate.claimed_in, now

    def move(self, state: State, now: float, why: str = "") -> None:
        """Go on to `state`; raises LedgerError where that is not a step of an entry's life."""
        if state not in TRANSITIONS.get(self.state, frozenset()):
            raise LedgerError(f"entry {self.id} ({self.tool}) is {self.state} and cannot become {state}")
        self.state = state
        if state in END_STATES:
            self.ended_at, self.why = now, why


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why a candidate was not admitted; `entry` is the one that is there already."""

    reason: RefusalReason
    detail: str = ""
    entry: Entry | None = None


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What an authoritative call finds.

    reused: `outcome` is the result. joined: wait for the run of `entry`, then `Ledger.collect` it. promoted: `entry`
    was predicted but never began, and miss: there is nothing; either way the caller runs the tool itself.
    `session` is whose call it is, also on a miss; None where nobody can say.
    """

    kind: ClaimKind
    entry: Entry | None = None
    outcome: Outcome | None = None
    session: SessionId | None = None
