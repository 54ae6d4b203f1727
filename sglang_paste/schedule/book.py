"""What rank 0 knows of the sessions on its engine: what each is doing, what it waits for, and since when.

Fed by what the scheduler sees itself, so that it needs no side process and no gateway; directives only sharpen it.
"""

import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import msgspec

from sglang_paste.events import CallReady, EngineDirective, EngineEvent, Expect, Release, TurnEnded, TurnStarted
from sglang_paste.schedule.absence import HORIZON, Absence, Kinds, lognormal
from sglang_paste.schedule.holds import Whose

SESSIONS = 4096
BRANCHES = 16

State = Literal["running", "away", "idle", "back"]


class Branch(msgspec.Struct, kw_only=True, eq=False):
    """A conversation as one request leaves it.

    `away` is a branch whose turn ended in calls of `tools`, `idle` one whose turn ended otherwise, `back` one that the
    request `by` continues. Times are CLOCK_MONOTONIC seconds: `started` is when its own request came, `since` when that
    ended. `turn` counts the turns of all sessions until then; `busy` and `gone` are the seconds its past spent in turns
    and between them. `elsewhere`: its session has gone on without it. `expect` is the side process's word on its tools.
    """

    whose: Whose
    request: str
    started: float
    state: State = "running"
    tools: tuple[str, ...] = ()
    tokens: int = 0
    since: float = 0.0
    turn: int = 0
    elsewhere: bool = False
    busy: float = 0.0
    gone: float = 0.0
    by: str = ""
    expect: Expect | None = None
    outlook: Absence | None = None

    @property
    def kind(self) -> tuple[str, ...]:
        """What its absence is like: that of the same tools, or of users."""
        return (self.whose.tenant, "elsewhere" if self.elsewhere else "here", *self.tools)


class Ended(msgspec.Struct, frozen=True):
    """A branch's absence of so many seconds, and turns of all sessions; infinity where it will not come back."""

    branch: Branch
    seconds: float
    turns: int


class Session(msgspec.Struct, kw_only=True, eq=False):
    """A session and its branches, the latest last. `expect` is the last word of the side process, if any."""

    whose: Whose
    branches: OrderedDict[str, Branch] = msgspec.field(default_factory=OrderedDict)
    expect: Expect | None = None

    @property
    def latest(self) -> Branch | None:
        """The branch whose turn began last."""
        return next(reversed(self.branches.values()), None)

    @property
    def hit_probability(self) -> float:
        """How likely the call it makes next was run early."""
        return self.expect.hit_probability if self.expect else 0.0

    @property
    def tool_seconds(self) -> float:
        """What that call takes by itself."""
        return self.expect.tool_seconds if self.expect else 0.0


class Book:
    """The sessions of an engine. Bounded: the longest untouched are forgotten, and count as gone."""

    def __init__(self, sessions: int = SESSIONS) -> None:
        self.turns = 0
        self.kinds = Kinds()
        self._limit = sessions
        self._sessions: OrderedDict[Whose, Session] = OrderedDict()
        self._ended: list[Ended] = []

    def __len__(self) -> int:
        return len(self._sessions)

    def session(self, whose: Whose) -> Session | None:
        """What is known of a session."""
        return self._sessions.get(whose)

    def branch(self, whose: Whose, request: str) -> Branch | None:
        """A conversation as this request left it, while it is known."""
        session = self._sessions.get(whose)
        return session.branches.get(request) if session else None

    def absence(self, branch: Branch) -> Absence:
        """How long branches like this one stay away."""
        if branch.outlook is not None:
            return branch.outlook
        known = self.kinds.of(branch.kind, tool=bool(branch.tools))
        expect = branch.expect
        if expect is None or branch.state != "away":
            return known
        shift = expect.time - branch.since
        branch.outlook = lognormal(shift + expect.p50, shift + expect.p90, 1 - known.returns(0.0))
        return branch.outlook

    def observe(self, events: Iterable[EngineEvent]) -> None:
        """What the scheduler's own turns say."""
        for event in events:
            whose = Whose(event.tenant, event.session)
            if isinstance(event, TurnStarted):
                self.began(event.request, whose, event.time)
            elif branch := self.branch(whose, event.request):
                if isinstance(event, CallReady):
                    branch.tools = tuple(sorted({*branch.tools, event.tool}))
                elif isinstance(event, TurnEnded):
                    self._turn_ended(branch, event)

    def direct(self, directives: Iterable[EngineDirective]) -> list[Whose]:
        """What the side process says; returns the sessions that will not come back."""
        gone = []
        for directive in directives:
            whose = Whose(directive.tenant, directive.session)
            session = self._sessions.get(whose)
            if session is None:
                continue
            if isinstance(directive, Release):
                self._drop(session)
                gone.append(whose)
            elif isinstance(directive, Expect):
                session.expect = directive
                branch = session.latest
                if branch is not None and directive.p50 and directive.time >= branch.started:
                    branch.expect, branch.outlook = directive, None
        return gone

    def began(self, request: str, whose: Whose, now: float) -> Branch:
        """A request of a session was queued."""
        session = self._sessions.get(whose)
        if session is None:
            session = self._sessions[whose] = Session(whose=whose)
        self._sessions.move_to_end(whose)
        if request not in session.branches:
            self.turns += 1
            session.branches[request] = Branch(whose=whose, request=request, started=now, turn=self.turns)
            self._bound(session)
        return session.branches[request]

    def continued(self, request: str, whose: Whose, requests: Sequence[str], now: float) -> None:
        """A request continues the branches that those requests left; the session's others stay behind."""
        branch = self.began(request, whose, now)
        session = self._sessions[whose]
        for older in session.branches.values():
            if older.request in requests and older.state in ("away", "idle"):
                self._learn(Ended(older, now - older.since, self.turns - older.turn))
                branch.busy, branch.gone = older.busy, older.gone + now - older.since
                older.state, older.by = "back", request
            elif older.state != "running":
                older.elsewhere = True

    def held(self, request: str, whose: Whose, tokens: int, now: float) -> Branch:
        """What a request leaves in the cache."""
        branch = self.began(request, whose, now)
        branch.tokens = tokens
        if branch.state == "running":
            self._close(branch, "idle", now)
        self._settle(self._sessions[whose], request, None)
        return branch

    def aborted(self, request: str, whose: Whose, now: float) -> None:
        """A request is gone without an answer: what it continued stays as it was."""
        session = self._sessions.get(whose)
        if session is not None:
            session.branches.pop(request, None)
            self._settle(session, request, now)

    def expire(self, now: float) -> None:
        """Count those as gone that have been away beyond the horizon."""
        for session in list(self._sessions.values()):
            if all(branch.state != "running" and now - branch.since > HORIZON for branch in session.branches.values()):
                self._drop(session)

    def ended(self) -> list[Ended]:
        """The absences that ended since the last call."""
        ended, self._ended = self._ended, []
        return ended

    def __iter__(self) -> Iterator[Session]:
        return iter(self._sessions.values())

    def _turn_ended(self, branch: Branch, event: TurnEnded) -> None:
        if event.reason in ("abort", "error"):
            self.aborted(event.request, branch.whose, event.time)
        elif branch.state == "running" or not branch.tools:
            self._close(branch, "away" if branch.tools else "idle", event.time)

    def _close(self, branch: Branch, state: State, now: float) -> None:
        branch.state, branch.since = state, now
        branch.busy += now - branch.started
        branch.turn = self.turns

    def _settle(self, session: Session, request: str, now: float | None) -> None:
        """Forget what a request continued, or take it to be idle again from now on."""
        for older in [branch for branch in session.branches.values() if branch.by == request]:
            if now is None:
                del session.branches[older.request]
            else:
                older.state, older.by, older.since, older.tools, older.expect = "idle", "", now, (), None
                older.outlook = None

    def _drop(self, session: Session) -> None:
        del self._sessions[session.whose]
        for branch in session.branches.values():
            if branch.state in ("away", "idle"):
                self._learn(Ended(branch, math.inf, self.turns - branch.turn))

    def _learn(self, ended: Ended) -> None:
        self.kinds.add(ended.branch.kind, ended.seconds, tool=bool(ended.branch.tools))
        self._ended.append(ended)
        del self._ended[:-SESSIONS]

    def _bound(self, session: Session) -> None:
        while len(session.branches) > BRANCHES:
            oldest = next((b for b in session.branches.values() if b.state != "running"), None)
            oldest = oldest or next(iter(session.branches.values()))
            del session.branches[oldest.request]
        while len(self._sessions) > self._limit:
            self._drop(next(iter(self._sessions.values())))
