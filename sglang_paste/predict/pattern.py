"""Candidates from patterns: what followed this tool before, with late-bound arguments."""

import time
from collections.abc import Callable, Mapping
from itertools import islice

import msgspec

from sglang_paste.calls import SessionId, TenantId, ToolCall, call_key, parse_arguments
from sglang_paste.errors import BadArguments
from sglang_paste.events import CallNamed, Event, SessionEnded, ToolReturned, TurnEnded, TurnStarted
from sglang_paste.predict.base import (
    DEFAULT_DELAY,
    MIN_PROBABILITY,
    NAMED_DELAY,
    UNRETURNED,
    Candidate,
    RunTime,
    ToolShape,
)
from sglang_paste.predict.follow import Context
from sglang_paste.predict.learn import Bounded
from sglang_paste.predict.program import MAX_NAME_CHARS, History, texts

MAX_SESSIONS = 2048
MAX_CONTEXTS = 4096
MAX_OFFERS = 4

# A context is the last tool of the session and whether it succeeded. No tool is named "".
Place = tuple[str, bool]
START: Place = ("", True)
ANYWHERE: Place = ("", False)
ContextKey = tuple[TenantId, Place]
SessionKey = tuple[TenantId, SessionId]


class _Session:
    def __init__(self) -> None:
        self.place = START
        self.since: float | None = None
        self.history = History()
        self.unreturned: list[str] = []


class PatternPredictor:
    """Learns online from confirmed calls, per tenant; bounded in sessions, contexts and what each holds.

    `run_time` says how long a tool takes; `contexts` (an empty one where absent) is what is kept over a restart, and
    `changed` hears of each context that was learned from.
    """

    def __init__(
        self,
        run_time: Callable[[TenantId, str], RunTime],
        shapes: Mapping[str, ToolShape] | None = None,
        *,
        contexts: Bounded[ContextKey, Context] | None = None,
        changed: Callable[[ContextKey], None] = lambda key: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run_time = run_time
        self._shapes = {} if shapes is None else shapes
        self._contexts: Bounded[ContextKey, Context] = Bounded(MAX_CONTEXTS) if contexts is None else contexts
        self._changed = changed
        self._clock = clock
        self._sessions: Bounded[SessionKey, _Session] = Bounded(MAX_SESSIONS)

    def observe(self, event: Event) -> list[Candidate]:
        """Candidates where a turn starts, a tool is named, or a result the gateway did not give came back."""
        key = (event.tenant, event.session)
        if isinstance(event, TurnStarted):
            return self._offers(key, event.time)
        if isinstance(event, CallNamed):
            return self._offers(key, event.time, event.tool)
        if isinstance(event, ToolReturned):
            return self._returned(key, event)
        if isinstance(event, TurnEnded) and event.reason == "stop" and event.calls == 0:
            self._rest(key)
        elif isinstance(event, SessionEnded):
            self._sessions.pop(key)
        return []

    def confirm(
        self, call: ToolCall, content: str, duration: float, *, ok: bool, asked: float | None = None
    ) -> list[Candidate]:
        """Learn that the call followed what its session did last, and offer what may follow it."""
        if call.session is None or len(call.tool) > MAX_NAME_CHARS:
            return []
        try:
            made, arguments = call_key(call.tool, call.arguments), texts(call.arguments)
        except BadArguments:
            return []
        now = self._clock()
        key = (call.tenant, call.session)
        self._learn(key, call.tool, arguments, now if asked is None else asked)
        session = self._push(key, call.tool, arguments, content, ok, now)
        session.unreturned = [*session.unreturned[1 - UNRETURNED :], made]
        return self._offers(key, now)

    def _returned(self, key: SessionKey, event: ToolReturned) -> list[Candidate]:
        """A result in the conversation: of a confirmed call, or of one that the client made by itself."""
        if len(event.tool) > MAX_NAME_CHARS:
            return []
        try:
            parsed = parse_arguments(event.arguments)
            made, arguments = call_key(event.tool, parsed), texts(parsed)
        except BadArguments:
            return []
        session = self._sessions.use(key, _Session)
        if made in session.unreturned:
            session.unreturned.remove(made)
        else:
            self._learn(key, event.tool, arguments, event.time)
            self._push(key, event.tool, arguments, event.content, True, event.time)
        return self._offers(key, event.time)

    def _rest(self, key: SessionKey) -> None:
        """The turn asked for no tool: that is an outcome too, and the next turn is a new beginning."""
        session = self._sessions.get(key)
        if session is None:
            return
        for place in (session.place, ANYWHERE):
            context = self._contexts.get((key[0], place))
            if context is not None:
                context.learn(None, {}, session.history, ())
                self._changed((key[0], place))
        session.place, session.since = START, None

    def _learn(self, key: SessionKey, tool: str, arguments: dict[str, str] | None, asked: float) -> None:
        session = self._sessions.use(key, _Session)
        inert = self._shapes[tool].inert if tool in self._shapes else ()
        for place in (session.place, ANYWHERE):
            context = self._contexts.use((key[0], place), Context)
            context.learn(tool, arguments, session.history, inert)
            if session.since is not None:
                context.delay.add(asked - session.since)
            self._changed((key[0], place))

    def _push(
        self, key: SessionKey, tool: str, arguments: dict[str, str] | None, content: str, ok: bool, now: float
    ) -> _Session:
        session = self._sessions.use(key, _Session)
        session.history.push(tool, arguments or {}, content)
        session.place, session.since = (tool, ok), now
        return session

    def _offers(self, key: SessionKey, now: float, tool: str | None = None) -> list[Candidate]:
        session = self._sessions.use(key, _Session)
        context = self._context(key[0], session.place, tool)
        if context is None:
            return []
        found = islice(context.offers(session.history, tool), MAX_OFFERS)
        delay = NAMED_DELAY
        if tool is None:
            elapsed = 0.0 if session.since is None else max(now - session.since, 0.0)
            delay = max(context.delay.quantile(0.5, DEFAULT_DELAY) - elapsed, NAMED_DELAY)
        return [
            Candidate(
                tenant=key[0],
                session=key[1],
                tool=name,
                arguments={argument: msgspec.json.decode(text) for argument, text in arguments.items()},
                probability=min(max(probability, 0.001), 0.999),
                run_time=self._run_time(key[0], name),
                claimed_in=delay,
                source="pattern",
            )
            for name, arguments, probability in found
            if probability >= MIN_PROBABILITY
        ]

    def _context(self, tenant: TenantId, place: Place, tool: str | None) -> Context | None:
        """The context of the last tool, or all of the tenant's calls where that one knows nothing of `tool`."""
        near = self._contexts.get((tenant, place))
        if near is not None and near.follows and (tool is None or tool in near.follows):
            return near
        return self._contexts.get((tenant, ANYWHERE))
