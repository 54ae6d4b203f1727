"""The side process and the tools of one server: the product's ledger, planner and outlook, on simulated time."""

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import Any

import simpy

from bench.replay.records import Outcome as RecordedOutcome
from bench.replay.simulate.workload import Guess, Service, Use
from sglang_paste.calls import DEFAULT_TENANT, Arguments, SessionId, ToolCall, call_key
from sglang_paste.config import Limits, Policy
from sglang_paste.events import CallReady, EngineDirective, ToolReturned
from sglang_paste.execute.base import Outcome
from sglang_paste.predict.base import DEFAULT_DELAY, Candidate, RunTime
from sglang_paste.speculate.budget import to_preempt, to_supersede
from sglang_paste.speculate.entries import Entry
from sglang_paste.speculate.ledger import Ledger
from sglang_paste.speculate.outlook import Outlook
from sglang_paste.speculate.planner import Load, choose

TICK_S = 0.25
DONE = Outcome(content="")
CUT = Outcome(content="", failure="cancelled")
# How fast what was seen last counts for what is expected next.
RECENT = 0.2

Process = Generator[simpy.Event, Any, None]


class Side:
    """What early runs and the gateway's calls come to. `early` are the entries of all that ran early, `busy` the
    seconds of all tools at work. Tools wait and take nothing of the cores."""

    def __init__(
        self,
        env: simpy.Environment,
        service: Service,
        policies: dict[str, Policy],
        limits: Limits,
        tell: Callable[[Sequence[EngineDirective]], None],
        load: Callable[[], float],
        *,
        warms: bool,
    ) -> None:
        self.ledger = Ledger(policies, limits)
        self.outlook = Outlook(tell, lambda: env.now, warms=warms)
        self.early: list[Entry] = []
        self.busy = 0.0
        self._env = env
        self._service = service
        self._policies = policies
        self._limits = limits
        self._load = load
        self._authoritative: Counter[str] = Counter()
        self._asked: set[str] = set()
        self._runs: dict[int, simpy.Process] = {}
        self._seconds: dict[int, float] = {}
        self._expiry = 0.0
        self._delay = DEFAULT_DELAY
        self._times: dict[str, float] = {}

    def began(self, session: str) -> None:
        """A turn has begun."""
        self.outlook.turn_began(DEFAULT_TENANT, SessionId(session))

    def turned(self, seconds: float) -> None:
        """A turn took so long; what is guessed at the start of one is expected to be claimed after that time."""
        self._delay += RECENT * (seconds - self._delay)

    def offer(self, session: str, name: str, use: Use, guesses: Iterable[Guess], left: float) -> None:
        """What a predictor says of a call that will be asked for in `left` seconds or so."""
        for number, guess in enumerate(guesses):
            candidate = Candidate(
                tenant=DEFAULT_TENANT,
                session=SessionId(session),
                tool=use.tool,
                arguments=_arguments(name, 0 if guess.right else number + 1),
                probability=guess.probability,
                run_time=self._run_time(use.tool, guess.seconds),
                claimed_in=left,
                source="stream" if guess.moment == "stream" else "mined",
            )
            if name in self._asked:
                continue
            entry = self.ledger.admit(candidate, self._env.now)
            if isinstance(entry, Entry):
                self._seconds[entry.id] = guess.seconds
            if guess.moment != "stream":
                self.outlook.next_call(candidate)
        self.plan()

    def announce(self, event: CallReady) -> None:
        """The engine has written a call."""
        self._drop(self.ledger.announce(event, self._env.now))

    def returned(self, event: ToolReturned) -> None:
        """A session is back with a tool's result."""
        self._drop(self.ledger.returned(event, self._env.now))

    def expected(self) -> float:
        """Seconds from a turn's start to its call, as far as is known."""
        return self._delay

    def plan(self) -> None:
        """Start what is worth running now, as the side process does."""
        now = self._env.now
        if now >= self._expiry:
            self._expiry = now + TICK_S
            self._drop(self.ledger.expire(now))
        queued = self.ledger.queued()
        if not queued:
            return
        executing = self.ledger.executing()
        load = Load(engine=self._load())
        chosen = choose(queued, executing, self._authoritative, self._policies, self._limits, load)
        for entry in chosen:
            self.ledger.started(entry, now)
            self.early.append(entry)
            self._runs[entry.id] = self._env.process(self._run_early(entry))
        left = [entry for entry in queued if entry not in chosen]
        over = to_supersede(left, (*executing, *chosen), self._authoritative, self._policies, self._limits)
        if over is not None:
            self.ledger.cancel(over, now, "superseded")
            self._drop([over])

    def call(self, session: str, name: str, use: Use) -> Generator[simpy.Event, Any, RecordedOutcome]:
        """An authoritative call; returns what became of it once its result is here."""
        env = self._env
        yield env.timeout(self._service.claim)
        call = ToolCall(
            tenant=DEFAULT_TENANT,
            session=SessionId(session),
            tool=use.tool,
            arguments=_arguments(name, 0),
            call_id=name,
        )
        claim = self.ledger.claim(call, env.now)
        if claim.kind == "reused":
            self._foretell(call.session, call_key(call.tool, call.arguments), name)
            return "reused"
        run_time = self._run_time(use.tool, use.seconds)
        number = self.outlook.began(DEFAULT_TENANT, SessionId(session), run_time, env.now)
        try:
            if claim.kind == "joined" and claim.entry is not None:
                yield self._runs[claim.entry.id]
                if self.ledger.collect(claim.entry) is not None:
                    self._foretell(call.session, call_key(call.tool, call.arguments), name)
                    return "joined"
            yield from self._run(call, session, name, use)
            self._foretell(call.session, call_key(call.tool, call.arguments), name)
        finally:
            self.outlook.ended(DEFAULT_TENANT, SessionId(session), number)
        return "promoted" if claim.kind == "promoted" else "run"

    def _foretell(self, session: SessionId | None, key: str, call_id: str | None) -> None:
        """The client has the result in a moment, and the session is back with it in another."""
        if session is not None:
            place = self.ledger.place(DEFAULT_TENANT, session, key, call_id)
            self.outlook.known(DEFAULT_TENANT, session, place, "")

    def _run(self, call: ToolCall, session: str, name: str, use: Use) -> Process:
        footprint, squashed = self.ledger.begin_write(call, SessionId(session), self._env.now)
        self._drop(squashed)
        policy = self._policies[use.tool]
        entry = to_preempt(use.tool, policy, self.ledger.executing(), self._authoritative)
        if entry is not None:
            if not entry.ended:
                self.ledger.cancel(entry, self._env.now, "preempted")
            self._drop([entry])
        self._authoritative[use.tool] += 1
        self._asked.add(name)
        yield self._env.timeout(self._service.call - self._service.claim + use.seconds)
        self.busy += use.seconds
        self._times[use.tool] = self._known(use.tool, use.seconds)
        self._authoritative[use.tool] -= 1
        self._drop(self.ledger.end_write(footprint, self._env.now))
        self.plan()

    def _run_early(self, entry: Entry) -> Process:
        began, outcome = self._env.now, DONE
        try:
            yield self._env.timeout(self._service.call - self._service.claim + self._seconds.pop(entry.id))
        except simpy.Interrupt:
            outcome = CUT
        self.busy += self._env.now - began
        self.ledger.settled(entry, outcome, self._env.now)
        del self._runs[entry.id]
        if entry.state == "ready":
            self._foretell(entry.session, entry.key, None)
        self.plan()

    def _drop(self, ended: Iterable[Entry]) -> None:
        for entry in ended:
            run = self._runs.get(entry.id)
            if run is not None and entry.executing and run.is_alive and run is not self._env.active_process:
                run.interrupt()
            elif not entry.executing:
                self._seconds.pop(entry.id, None)

    def _known(self, tool: str, seconds: float) -> float:
        known = self._times.get(tool, seconds)
        return known + RECENT * (seconds - known)

    def _run_time(self, tool: str, guess: float) -> RunTime:
        known = self._times.get(tool, guess)
        return RunTime(p50=known, p90=3 * known)


def _arguments(name: str, wrong: int) -> Arguments:
    return {"call": name, "wrong": wrong} if wrong else {"call": name}
