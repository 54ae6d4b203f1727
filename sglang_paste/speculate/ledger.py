"""Isolated results of speculative calls."""

import itertools
import json
from collections.abc import Iterable, Mapping
from math import inf

from sglang_paste.calls import Arguments, SessionId, TenantId, ToolCall, call_key, parse_arguments
from sglang_paste.config import Limits, Policy
from sglang_paste.errors import BadArguments, LedgerError
from sglang_paste.events import CallAborted, CallIssued, CallLikely, CallReady, ToolReturned
from sglang_paste.execute.base import Outcome
from sglang_paste.policy import is_pure, policy_of, why_not_early
from sglang_paste.predict.base import Candidate
from sglang_paste.speculate.announced import Announcements
from sglang_paste.speculate.entries import Claim, Entry, Refusal, State
from sglang_paste.speculate.epochs import Footprint, reads_of, writes_of
from sglang_paste.speculate.made import WritesMade

MAX_QUEUED = 256
MAX_QUEUED_PER_SESSION = 16
ENTRY_BYTES = 4096


class Ledger:
    """Holds the results of speculative calls apart from everybody until an exact match claims them.

    Synchronous and without I/O; `now` is CLOCK_MONOTONIC seconds and never goes back. A returned list holds the
    entries that ended in the call: where `entry.executing`, the caller cancels the run and settles it when it is gone.

    - A result is handed out once; that of a pure tool as often as it is claimed until its time is over.
    - A failed run is never handed out. A result with `is_error` is: it is what the tool says, like any other.
    - An entry lives in one epoch. A write to what it reads ends it, whether it is queued, running (also where a claim
      has joined it) or ready, when the write begins and again when it ends; none is admitted in between.
    - A claim with a session sees that session's entries alone. One without is given the session its call id was issued
      in, else the only one that announced such a call and has no result of it yet. Where that is nobody or several,
      it is a miss, but for pure tools, which take the best entry of the tenant. Clients that want certainty send the
      session or the call id.
    """

    def __init__(self, policies: Mapping[str, Policy], limits: Limits) -> None:
        self._policies = policies
        self._limits = limits
        self._announced = Announcements()
        self._made = WritesMade()
        self._ids = itertools.count(1)
        self._entries: dict[int, Entry] = {}  # live ones, and ended ones whose shared result is kept
        self._calls: dict[tuple[TenantId, str], list[Entry]] = {}  # the same by tenant and key
        self._executing: dict[int, Entry] = {}
        self._evicted: list[Entry] = []
        self._writing: list[Footprint] = []
        self._bytes = 0
        self.epoch = 0

    @property
    def results_bytes(self) -> int:
        """What the kept results take."""
        return self._bytes

    # What the engine says

    def announce(self, event: CallLikely | CallReady | CallIssued, now: float) -> list[Entry]:
        """Remember a call of the engine, so that a claim without session finds its own. Where the call turns out to be
        another than it looked like, what was begun for the look is squashed."""
        if event.tool not in self._policies:
            return []
        if isinstance(event, CallIssued):
            self._announced.issued(event)
            return []
        try:
            key = self._key(event.tool, parse_arguments(event.arguments))
        except BadArguments:
            return []
        before = self._announced.keyed(event, key)
        return self._unexpected(event.tenant, event.session, before, "squashed", "another call", now)

    def withdraw(self, event: CallAborted, now: float) -> list[Entry]:
        """Forget a call that will never be ready, and cancel what was begun for it."""
        key = self._announced.withdraw(event)
        return self._unexpected(event.tenant, event.session, key, "cancelled", "withdrawn", now)

    def returned(self, event: ToolReturned, now: float) -> list[Entry]:
        """Take note that a session has a tool's result. A call that no claim was made for ran elsewhere: where it
        wrote, it counts as a write that has just happened, and a tool nobody declared may have written everything."""
        try:
            arguments = parse_arguments(event.arguments)
            key = self._key(event.tool, arguments)
        except BadArguments:
            key, arguments = "", {}
        self._announced.returned(event.tenant, event.session, key, event.call_id)
        policy = policy_of(self._policies.get(event.tool), arguments)
        writes = writes_of(policy, event.tenant, event.session)
        if writes is None or self._made.take(event, key):
            return []
        return self._squash(writes, now)

    def end_session(self, tenant: TenantId, session: SessionId, now: float) -> list[Entry]:
        """Cancel all that a session has, but for what somebody waits for."""
        self._announced.forget(tenant, session)
        own = [entry for entry in self._entries.values() if (entry.tenant, entry.session) == (tenant, session)]
        return self._end_all((entry for entry in own if not entry.waiters), "cancelled", "session ended", now)

    def place(self, tenant: TenantId, session: SessionId, key: str, call_id: str | None) -> tuple[str, int] | None:
        """The request and the index of a call that the engine has made and the session has no result of."""
        return self._announced.place(tenant, session, key, call_id)

    # Speculative runs

    def admit(self, candidate: Candidate, now: float) -> Entry | Refusal:
        """Queue a candidate. One that is there already is not queued twice, but lends it its better odds.

        Raises BadArguments for arguments that are not JSON.
        """
        policy = policy_of(self._policies.get(candidate.tool), candidate.arguments)
        if policy is None:
            return Refusal(reason="unknown tool")
        if why := why_not_early(policy):
            return Refusal(reason="policy", detail=why)
        if not candidate.probability >= self._limits.minimum_probability:
            return Refusal(reason="improbable")
        key = self._key(candidate.tool, candidate.arguments)
        for present in self._present(candidate.tenant, candidate.session, key, now):
            present.refresh(candidate, now)
            return Refusal(reason="present", entry=present)
        reads = reads_of(policy, candidate.tenant, candidate.session)
        if any(writes.meets(reads) for writes in self._writing):
            return Refusal(reason="write under way")
        entry = self._entry(candidate, policy, key, reads, now)
        if not self._has_room(entry, now):
            return Refusal(reason="no room")
        self._entries[entry.id] = entry
        self._calls.setdefault((entry.tenant, entry.key), []).append(entry)
        return entry

    def queued(self) -> list[Entry]:
        """For `planner.choose`."""
        return [entry for entry in self._entries.values() if entry.state == "queued"]

    def executing(self) -> list[Entry]:
        """Every entry with a tool at work, ended ones included. For the budget."""
        return list(self._executing.values())

    def started(self, entry: Entry, now: float) -> None:
        """A queued entry's run begins; call it in the same step as `Executor.launch`, before it."""
        entry.move("running", now)
        entry.started_at, entry.expires_at, entry.executing = now, inf, True
        self._executing[entry.id] = entry

    def settled(self, entry: Entry, outcome: Outcome, now: float) -> None:
        """A run is over and its tool is gone: exactly once for every `started`, also after a squash. What has to make
        room for the result is returned by the next `expire`."""
        if not entry.executing:
            raise LedgerError(f"entry {entry.id} ({entry.tool}) has no run that could be settled")
        entry.executing, entry.settled_at = False, now
        del self._executing[entry.id]
        if entry.ended:
            return
        if outcome.failure:
            self._end(entry, "failed", outcome.failure, now)
            return
        entry.outcome, entry.size = outcome, _size(outcome)
        entry.expires_at = now + self._limits.result_ttl_s
        self._bytes += entry.size
        if entry.waiters:
            self._claimed(entry, now)
        else:
            entry.move("ready", now)
        self._evict(entry, now)

    def cancel(self, entry: Entry, now: float, why: str) -> None:
        """End a live entry that nobody waits for."""
        if entry.waiters:
            raise LedgerError(f"entry {entry.id} ({entry.tool}) is waited for and cannot be cancelled")
        self._end(entry, "cancelled", why, now)

    # Authoritative calls

    def claim(self, call: ToolCall, now: float) -> Claim:
        """Match an authoritative call, exactly. Raises BadArguments for arguments that are not JSON."""
        key = self._key(call.tool, call.arguments)
        session = call.session or self._announced.session_of(call.tenant, key, call.call_id)
        if writes_of(policy_of(self._policies.get(call.tool), call.arguments), call.tenant, session) is not None:
            self._made.add(call, session, key)
        entry = self._match(call.tenant, session, key, now)
        if entry is None:
            return Claim(kind="miss", session=session)
        return self._hand_out(entry, session, now)

    def unmade(self, call: ToolCall) -> None:
        """A claimed call came to nothing that its client could use. Where the client makes it elsewhere, `returned`
        counts that."""
        self._made.undo(call, self._key(call.tool, call.arguments))

    def collect(self, entry: Entry) -> Outcome | None:
        """What a joined claim gets once the run is settled; None: run the tool yourself. Once per joined claim."""
        if entry.state == "running":
            raise LedgerError(f"entry {entry.id} ({entry.tool}) is still running; wait for its run")
        outcome = entry.outcome if entry.state == "claimed" else None
        self._leave(entry)
        return outcome

    def abandon(self, entry: Entry, now: float) -> None:
        """A joined claim stops waiting without collecting (its client is gone). A run that is still going on can be
        claimed again."""
        self._leave(entry)

    def begin_write(
        self, call: ToolCall, session: SessionId | None, now: float
    ) -> tuple[Footprint | None, list[Entry]]:
        """An authoritative call is about to run: squash what reads what it writes. The footprint is None for a call
        that writes nothing, else it goes to `end_write`, whatever came of the call."""
        writes = writes_of(policy_of(self._policies.get(call.tool), call.arguments), call.tenant, session)
        if writes is None:
            return None, []
        self._writing.append(writes)
        return writes, self._squash(writes, now)

    def end_write(self, footprint: Footprint | None, now: float) -> list[Entry]:
        """The write is over: squash again."""
        if footprint is None:
            return []
        if footprint not in self._writing:
            raise LedgerError("a write ended that never began")
        self._writing.remove(footprint)
        return self._squash(footprint, now)

    # Time

    def expire(self, now: float) -> list[Entry]:
        """End what nobody asked for in `limits.result_ttl_s` seconds; also returns what was evicted since."""
        self._announced.expire(now)
        overdue = [entry for entry in self._entries.values() if entry.expires_at <= now]
        ended = self._evicted + self._end_all(overdue, "expired", "nobody asked", now)
        self._evicted = []
        return ended

    def next_expiry(self) -> float | None:
        """When `expire` has something to do; None while there is nothing."""
        if self._evicted:
            return 0.0
        first = min((entry.expires_at for entry in self._entries.values()), default=inf)
        return None if first == inf else first

    def close(self, now: float) -> list[Entry]:
        """Cancel everything."""
        return self.expire(now) + self._end_all(list(self._entries.values()), "cancelled", "closed", now)

    # Below: how

    def _key(self, tool: str, arguments: Arguments) -> str:
        policy = self._policies.get(tool)
        return call_key(tool, arguments, policy.inert if policy else ())

    def _entry(self, candidate: Candidate, policy: Policy, key: str, reads: Footprint, now: float) -> Entry:
        return Entry(
            id=next(self._ids),
            tenant=candidate.tenant,
            session=candidate.session,
            epoch=self.epoch,
            reads=reads,
            shared=is_pure(policy),
            tool=candidate.tool,
            arguments=candidate.arguments,
            key=key,
            source=candidate.source,
            probability=candidate.probability,
            run_time=candidate.run_time,
            claimed_in=candidate.claimed_in,
            predicted_at=now,
            expires_at=now + self._limits.result_ttl_s,
        )

    def _has_room(self, entry: Entry, now: float) -> bool:
        """Whether the queue can take the entry, by giving up a lesser one where it is full."""
        rivals = self.queued()
        own = [each for each in rivals if (each.tenant, each.session) == (entry.tenant, entry.session)]
        if len(own) >= MAX_QUEUED_PER_SESSION:
            rivals = own
        elif len(rivals) < MAX_QUEUED:
            return True
        least = min(rivals, key=lambda each: each.worth)
        if least.worth >= entry.worth:
            return False
        self._end(least, "expired", "no room", now)
        self._evicted.append(least)
        return True

    def _present(self, tenant: TenantId, session: SessionId | None, key: str, now: float) -> list[Entry]:
        """The entries of such a call; `session` None stands for all of the tenant."""
        same = self._calls.get((tenant, key), ())
        return [each for each in same if session in (None, each.session) and each.expires_at > now]

    def _match(self, tenant: TenantId, session: SessionId | None, key: str, now: float) -> Entry | None:
        entries = [each for each in self._present(tenant, session, key, now) if each.shared or not each.waiters]
        if session is None:
            entries = [each for each in entries if each.shared]
        return min(entries, key=_distance, default=None)

    def _hand_out(self, entry: Entry, session: SessionId | None, now: float) -> Claim:
        session = session or entry.session
        if entry.state == "queued":
            self._end(entry, "claimed", "promoted", now)
            return Claim(kind="promoted", entry=entry, session=session)
        if entry.state == "running":
            entry.waiters += 1
            entry.asked = True
            return Claim(kind="joined", entry=entry, session=session)
        outcome = entry.outcome
        self._claimed(entry, now)
        return Claim(kind="reused", entry=entry, outcome=outcome, session=session)

    def _claimed(self, entry: Entry, now: float) -> None:
        """A result has found who asked for it; a shared one is kept for others."""
        if not entry.ended:
            entry.move("claimed", now, "asked for")
        if not entry.shared:
            self._drop(entry)

    def _leave(self, entry: Entry) -> None:
        if not entry.waiters:
            raise LedgerError(f"entry {entry.id} ({entry.tool}) is not waited for")
        entry.waiters -= 1
        if entry.ended and entry.id not in self._entries and not entry.waiters:
            entry.outcome = None

    def _unexpected(
        self, tenant: TenantId, session: SessionId, key: str | None, state: State, why: str, now: float
    ) -> list[Entry]:
        """End what the stream had begun for a call that is none, unless such a call is expected all the same."""
        if key is None or self._announced.expects(tenant, session, key):
            return []
        begun = [each for each in self._present(tenant, session, key, now) if each.source == "stream"]
        return self._end_all((each for each in begun if not each.asked), state, why, now)

    def _squash(self, writes: Footprint, now: float) -> list[Entry]:
        self.epoch += 1
        stale = [entry for entry in self._entries.values() if writes.meets(entry.reads)]
        return self._end_all(stale, "squashed", "written", now)

    def _end_all(self, entries: Iterable[Entry], state: State, why: str, now: float) -> list[Entry]:
        """End the live ones and forget the kept ones; returns those that ended now."""
        ended = []
        for entry in list(entries):
            if entry.ended:
                self._drop(entry)
            else:
                self._end(entry, state, why, now)
                ended.append(entry)
        return ended

    def _end(self, entry: Entry, state: State, why: str, now: float) -> None:
        entry.move(state, now, why)
        self._drop(entry)

    def _drop(self, entry: Entry) -> None:
        """No claim finds the entry any more; its result stays for those who have joined it."""
        del self._entries[entry.id]
        same = self._calls[entry.tenant, entry.key]
        same.remove(entry)
        if not same:
            del self._calls[entry.tenant, entry.key]
        self._bytes -= entry.size
        if not entry.waiters:
            entry.outcome = None

    def _evict(self, latest: Entry, now: float) -> None:
        """Give up the least useful results until they fit; one that never can goes at once."""
        if latest.size > self._limits.results_bytes and latest.id in self._entries:
            self._evicted += self._end_all([latest], "expired", "too large", now)
        while self._bytes > self._limits.results_bytes:
            results = [entry for entry in self._entries.values() if entry.outcome is not None]
            least = min(results, key=lambda each: (not each.ended, each.worth, each.id))
            self._evicted += self._end_all([least], "expired", "no room", now)


def _distance(entry: Entry) -> tuple[int, int]:
    """Results before runs before the queue; of equals the oldest."""
    rank = {"queued": 2, "running": 1}.get(entry.state, 0)
    return rank, entry.id


def _size(outcome: Outcome) -> int:
    structured = "" if outcome.structured is None else json.dumps(outcome.structured, default=str)
    return ENTRY_BYTES + len(outcome.content.encode("utf-8", "surrogatepass")) + len(structured)
