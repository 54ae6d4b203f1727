"""Mined patterns in a running server: what its sessions bring goes in, candidates come out, trust is learned."""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from sglang_paste.calls import SessionId, TenantId, ToolCall, call_key, parse_arguments
from sglang_paste.errors import BadArguments
from sglang_paste.events import (
    CallLikely,
    CallNamed,
    CallOpened,
    CallPartial,
    Event,
    MessageAdded,
    SessionEnded,
    ToolReturned,
    TurnEnded,
    TurnStarted,
)
from sglang_paste.predict.base import (
    DEFAULT_DELAY,
    MIN_PROBABILITY,
    NAMED_DELAY,
    UNRETURNED,
    Candidate,
    RunTime,
    ToolShape,
)
from sglang_paste.predict.learn import Bounded, Samples
from sglang_paste.predict.mined import Candidate as Guess
from sglang_paste.predict.mined import Mined, MinedSession

MAX_SESSIONS = 512
MAX_TRUSTS = 4096
MAX_BRANCHES = 128
MAX_OFFERS = 5

SessionKey = tuple[TenantId, SessionId]


class Trust:
    """Hits against what the probabilities promised, forgetting: below 1 where the patterns promise too much."""

    KEEP = 0.9
    PRIOR = 3.0

    def __init__(self) -> None:
        self._hits = 0.0
        self._promised = 0.0

    @property
    def factor(self) -> float:
        """What a promised probability is worth here. Never above 1: the patterns are calibrated."""
        return min(1.0, (self._hits + self.PRIOR) / (self._promised + self.PRIOR))

    def learn(self, promised: float, hit: bool) -> None:
        """A promise of this probability was kept, or not."""
        self._hits = self._hits * self.KEEP + hit
        self._promised = self._promised * self.KEEP + promised


class _Session:
    def __init__(self, mined: MinedSession) -> None:
        self.mined = mined
        self.offered: list[Guess] = []
        self.unreturned: list[str] = []
        self.since: float | None = None


class LivePredictor:
    """Sessions of a running server over mined patterns; bounded in sessions and in what each holds.

    `run_time` says how long a tool takes here; it counts more than what was recorded elsewhere once the tool has run.
    """

    def __init__(
        self,
        mined: Mined,
        run_time: Callable[[TenantId, str], RunTime],
        shapes: Mapping[str, ToolShape] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._mined = mined
        self._run_time = run_time
        self._shapes = {} if shapes is None else shapes
        self._clock = clock
        self._sessions: Bounded[SessionKey, _Session] = Bounded(MAX_SESSIONS)
        self._trust: Bounded[tuple[TenantId, str], Trust] = Bounded(MAX_TRUSTS)
        self._delays: Bounded[TenantId, Samples] = Bounded(MAX_TRUSTS)
        self._branches: Bounded[tuple[SessionKey, str], MinedSession] = Bounded(MAX_BRANCHES)

    def observe(self, event: Event) -> list[Candidate]:
        """Candidates where a turn starts, a call opens after some words, a tool is named, arguments are complete, or a
        result the gateway did not give came back."""
        key = (event.tenant, event.session)
        if not self._serves(event.tenant):
            return []
        if isinstance(event, MessageAdded):
            self._use(key).mined.observe({"role": event.role, "content": event.content})
        elif isinstance(event, TurnStarted):
            session = self._use(key)
            session.since = event.time
            session.mined.observe_partial("")
            session.mined.offer(event.tools)
            return self._offers(key, self._left(key, event.time))
        elif isinstance(event, CallOpened):
            if event.said:
                self._use(key).mined.observe_partial(event.said)
                return self._offers(key, self._left(key, event.time))
        elif isinstance(event, CallNamed):
            return self._offers(key, NAMED_DELAY, event.tool)
        elif isinstance(event, CallPartial | CallLikely):
            return self._rest(key, event)
        elif isinstance(event, ToolReturned):
            return self._returned(key, event)
        elif isinstance(event, TurnEnded) and event.reason == "stop" and event.calls == 0:
            self._use(key).mined.remember()
        elif isinstance(event, SessionEnded):
            gone = self._sessions.pop(key)
            if gone is not None:
                gone.mined.remember()
        return []

    def confirm(
        self, call: ToolCall, content: str, duration: float, *, ok: bool, asked: float | None = None
    ) -> list[Candidate]:
        """Judge what was promised by the call that was made, take in its result, and offer what may follow."""
        if call.session is None or not self._serves(call.tenant):
            return []
        key = (call.tenant, call.session)
        made = self._key(call.tool, call.arguments)
        if made is None:
            return []
        now = self._clock()
        session = self._use(key)
        self._judge(key, session, call.tool, made)
        if session.since is not None:
            delay = (now if asked is None else asked) - session.since
            self._delays.use(call.tenant, Samples).add(delay)
        session.unreturned = [*session.unreturned[1 - UNRETURNED :], made]
        _push(session.mined, call.tool, call.arguments, content)
        # What a turn offered binds that turn alone: some agents offer other tools in each.
        session.mined.offer(None)
        # The call that follows is that of a turn which has not begun.
        return self._offers(key, self._delay(call.tenant))

    def under_way(self, call: ToolCall) -> list[Candidate]:
        """What may follow a call whose result nobody knows yet, as far as it does not depend on that."""
        known = None if call.session is None else self._sessions.get((call.tenant, call.session))
        if call.session is None or known is None:
            return []
        branch = known.mined.fork()
        branch.assume(call.tool, call.arguments)
        branch.offer(None)
        claimed_in = self._run_time(call.tenant, call.tool).p50 + self._delay(call.tenant)
        return self._branched((call.tenant, call.session), branch, 1.0, claimed_in)

    def foresee(self, call: ToolCall, content: str, probability: float, claimed_in: float) -> list[Candidate]:
        """What may follow a call that ran early and is made with this `probability`: its result is known here before
        anybody asks for it, and so are the arguments that come from it."""
        if call.session is None:
            return []
        key = (call.tenant, call.session)
        known, made = self._sessions.get(key), self._key(call.tool, call.arguments)
        if known is None or made is None:
            return []
        branch = (self._branches.pop((key, made)) or known.mined).fork()
        _push(branch, call.tool, call.arguments, content)
        branch.offer(None)
        return self._branched(key, branch, probability, claimed_in + self._delay(key[0]))

    def _branched(
        self, key: SessionKey, branch: MinedSession, probability: float, claimed_in: float
    ) -> list[Candidate]:
        """What may follow on a branch, which is kept for what follows that."""
        found = self._candidates(key, branch.candidates(MAX_OFFERS), probability, claimed_in)
        for candidate in found:
            following = self._key(candidate.tool, candidate.arguments)
            if following is not None:
                self._branches.use((key, following), lambda: branch)
        return found

    def _delay(self, tenant: TenantId) -> float:
        """Seconds from a turn's start to its call, as a rule."""
        known = self._delays.get(tenant)
        return known.quantile(0.5, DEFAULT_DELAY) if known else DEFAULT_DELAY

    def _returned(self, key: SessionKey, event: ToolReturned) -> list[Candidate]:
        """A result in the conversation: of a confirmed call, or of one that the client made by itself."""
        try:
            arguments = parse_arguments(event.arguments)
        except BadArguments:
            return []
        made = self._key(event.tool, arguments)
        session = self._use(key)
        if made is None or made in session.unreturned:
            if made is not None:
                session.unreturned.remove(made)
            return []
        self._judge(key, session, event.tool, made)
        _push(session.mined, event.tool, arguments, event.content)
        return []

    def _judge(self, key: SessionKey, session: _Session, tool: str, made: str) -> None:
        for guess in session.offered:
            trust = self._trust.use((key[0], guess.tool), Trust)
            trust.learn(guess.probability, guess.tool == tool and self._key(tool, guess.arguments) == made)
        session.offered = []

    def _left(self, key: SessionKey, now: float) -> float:
        """Seconds that are left, as a rule, until the call of the turn under way."""
        since = self._use(key).since
        return max(self._delay(key[0]) - (0.0 if since is None else max(now - since, 0.0)), NAMED_DELAY)

    def _offers(self, key: SessionKey, claimed_in: float, tool: str | None = None) -> list[Candidate]:
        session = self._use(key)
        guesses = session.mined.candidates(MAX_OFFERS, tool)
        if tool is None:
            session.offered = guesses
        return self._candidates(key, guesses, 1.0, claimed_in)

    def _rest(self, key: SessionKey, event: CallPartial | CallLikely) -> list[Candidate]:
        """What the arguments that are there may be completed to."""
        try:
            known = parse_arguments(event.arguments)
        except BadArguments:
            return []
        guesses = self._use(key).mined.candidates(MAX_OFFERS, event.tool, known)
        return self._candidates(key, [each for each in guesses if len(each.arguments) > len(known)], 1.0, NAMED_DELAY)

    def _candidates(
        self, key: SessionKey, guesses: list[Guess], probability: float, claimed_in: float
    ) -> list[Candidate]:
        found = []
        for guess in guesses:
            trust = self._trust.get((key[0], guess.tool))
            p = probability * guess.probability * (trust.factor if trust else 1.0)
            if p >= MIN_PROBABILITY:
                found.append(
                    Candidate(
                        tenant=key[0],
                        session=key[1],
                        tool=guess.tool,
                        arguments=guess.arguments,
                        probability=min(p, 0.999),
                        run_time=self._run_time(key[0], guess.tool),
                        claimed_in=claimed_in,
                        source="mined",
                    )
                )
        return found

    def _serves(self, tenant: TenantId) -> bool:
        return self._mined.patterns.tenant in ("", tenant)

    def _use(self, key: SessionKey) -> _Session:
        return self._sessions.use(key, lambda: self._begin(key[0]))

    def _begin(self, tenant: TenantId) -> _Session:
        inert = {f"{tool}.{name}" for tool, shape in self._shapes.items() for name in shape.inert}
        return _Session(self._mined.session(tenant=tenant, inert=inert))

    def _key(self, tool: str, arguments: Mapping[str, Any]) -> str | None:
        inert = self._shapes[tool].inert if tool in self._shapes else ()
        try:
            return call_key(tool, dict(arguments), inert)
        except BadArguments:
            return None


def _push(session: MinedSession, tool: str, arguments: Mapping[str, Any], content: str) -> None:
    function = {"name": tool, "arguments": json.dumps(arguments)}
    session.observe({"role": "assistant", "tool_calls": [{"id": "", "type": "function", "function": function}]})
    session.observe({"role": "tool", "tool_call_id": "", "content": content})
