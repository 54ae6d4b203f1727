"""One server: tokenizer, engine, side process and gateway, and the events and directives between them."""

import json
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any

import msgspec
import simpy

from bench.replay.records import Call
from bench.replay.records import Turn as Played
from bench.replay.simulate.engine import Engine, Request
from bench.replay.simulate.side import Process, Side
from bench.replay.simulate.workload import Features, Guess, Service, Session
from sglang_paste.calls import DEFAULT_TENANT, SessionId
from sglang_paste.config import Limits, Policy
from sglang_paste.events import CallReady, EngineDirective, ToolReturned, TurnEnded, TurnStarted, Warm
from sglang_paste.schedule.warm import SLICE_TOKENS

# No call is foreseen farther ahead.
FARTHEST = 4


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the launcher would be told. `gated`: a step has drafts only where they pay; the steps of rows that were
    measured have that in them already."""

    policies: dict[str, Policy]
    limits: Limits = Limits()
    warm_slice: int = SLICE_TOKENS
    gated: bool = False


class Server:
    """A server for `turn`, which is all that a client sees of it."""

    def __init__(self, env: simpy.Environment, service: Service, features: Features, options: Options) -> None:
        self.service = service
        self.features = features
        gated = options.gated and features.gated
        self.engine = Engine(env, service, features, warm_slice=options.warm_slice if features.warm else 0, gated=gated)
        self.side = Side(
            env,
            service,
            options.policies if features.early else {name: _late(each) for name, each in options.policies.items()},
            options.limits,
            self._tell,
            lambda: self.engine.load,
            warms=features.warm,
        )
        self._env = env
        self._tokenizer = simpy.Resource(env)
        self._kept: dict[str, int] = {}
        self._next: dict[str, tuple[Session, int]] = {}
        self._known: dict[str, set[int]] = {}

    def turn(self, session: Session, number: int) -> Generator[simpy.Event, Any, Played]:
        """Generate a turn and wait for its tools, as a client does."""
        env, turn = self._env, session.turns[number]
        sent = env.now
        yield env.timeout(self.service.turn)
        yield from self._tokenise(session.id, turn.prompt)
        rid = f"{session.id}/{number}"
        request = Request(
            rid=rid,
            session=session,
            turn=turn,
            arrived=env.now,
            first=env.event(),
            done=env.event(),
            notes=self._notes(session, number, rid),
        )
        self._started(session, number, rid)
        self.engine.submit(request)
        yield request.first
        first = env.now
        yield request.done
        self.side.turned(env.now - sent)
        ended = env.now
        calls: list[Call] = []
        yield from self._calls(session, number, calls)
        self._guess(session, number + 1)
        return Played(
            sent_at=sent,
            ttft_s=first - sent,
            generation_s=ended - first,
            tools_s=env.now - ended,
            prompt=turn.prompt,
            cached=request.cached,
            output=turn.output,
            steps=turn.steps,
            calls=tuple(calls),
        )

    def _tokenise(self, session: str, prompt: int) -> Process:
        """On one core for all: the whole conversation, or what is new where sessions are kept."""
        tokens = prompt - self._kept.get(session, 0) if self.features.sessions else prompt
        with self._tokenizer.request() as turn:
            yield turn
            yield self._env.timeout(self.service.tokenise * max(tokens, 0))
        self._kept[session] = prompt

    def _calls(self, session: Session, number: int, calls: list[Call]) -> Process:
        """All at once, but in order where one of them writes, as the client of the replay does."""
        uses = session.turns[number].uses
        each = [self._call(session, number, place, calls) for place in range(len(uses))]
        if any(use.effect == "write" for use in uses):
            for one in each:
                yield from one
        elif uses:
            yield self._env.all_of([self._env.process(one) for one in each])

    def _call(self, session: Session, number: int, place: int, calls: list[Call]) -> Process:
        use, began = session.turns[number].uses[place], self._env.now
        how = yield from self.side.call(session.id, _name(session, number, place), use)
        waited = self._env.now - began
        calls.append(Call(tool=use.tool, effect=use.effect, outcome=how, latency_s=waited, duration_s=use.seconds))

    def _started(self, session: Session, number: int, rid: str) -> None:
        turn = session.turns[number]
        self._next[session.id] = (session, number + 1)
        self._known.pop(session.id, None)
        if self.engine.warm is not None:
            self.engine.warm.drop(rid)
        event = TurnStarted(
            tenant=DEFAULT_TENANT,
            session=SessionId(session.id),
            request=rid,
            position=0,
            time=self._env.now,
            prompt_tokens=turn.prompt,
            tools=(),
        )
        self.engine.cache.book.observe([event])
        self.side.began(session.id)
        if not number:
            self._guess(session, 0)
        for place, use in enumerate(session.turns[number - 1].uses if number else ()):
            name = _name(session, number - 1, place)
            self.side.returned(
                ToolReturned(
                    tenant=DEFAULT_TENANT,
                    session=SessionId(session.id),
                    request=rid,
                    position=0,
                    time=self._env.now,
                    tool=use.tool,
                    call_id=name,
                    arguments=_arguments(name),
                    content="",
                )
            )

    def _ended(self, session: Session, number: int, rid: str) -> None:
        calls = len(session.turns[number].uses)
        event = TurnEnded(
            tenant=DEFAULT_TENANT,
            session=SessionId(session.id),
            request=rid,
            position=session.turns[number].output,
            time=self._env.now,
            reason="tool_calls" if calls else "stop",
            calls=calls,
        )
        self.engine.cache.book.observe([event])

    def _notes(self, session: Session, number: int, rid: str) -> list[tuple[int, Callable[[], None]]]:
        """What the stream says of a turn's calls, and when, the last first; at the end that it has ended."""
        turn = session.turns[number]
        notes: list[tuple[int, Callable[[], None]]] = [(turn.output, partial(self._ended, session, number, rid))]
        for place, use in reversed(list(enumerate(turn.uses))):
            early = [guess for guess in use.guesses if guess.moment == "stream"]
            at = max(turn.output - max((guess.tokens for guess in early), default=0), 1)
            notes.append((at, partial(self._written, session, number, place, rid, early)))
        return sorted(notes, key=lambda note: -note[0])

    def _written(self, session: Session, number: int, place: int, rid: str, guesses: list[Guess]) -> None:
        use, name = session.turns[number].uses[place], _name(session, number, place)
        event = CallReady(
            tenant=DEFAULT_TENANT,
            session=SessionId(session.id),
            request=rid,
            position=0,
            time=self._env.now,
            index=place,
            tool=use.tool,
            arguments=_arguments(name),
        )
        self.engine.cache.book.observe([event])
        self.side.announce(event)
        self._offer(session, number, place, guesses, 0.3)

    def _guess(self, session: Session, number: int) -> None:
        """What is foreseen at a turn's start, of its calls and of those of the next ones."""
        for ahead, turn in enumerate(session.turns[number : number + FARTHEST]):
            for place, use in enumerate(turn.uses):
                guesses = [guess for guess in use.guesses if guess.ahead >= ahead]
                self._offer(session, number + ahead, place, guesses, (1 + ahead) * self.side.expected())

    def _offer(self, session: Session, number: int, place: int, guesses: Sequence[Guess], left: float) -> None:
        if guesses and self.features.early:
            use = session.turns[number].uses[place]
            self.side.offer(session.id, _name(session, number, place), use, guesses, left)

    def _tell(self, directives: Sequence[EngineDirective]) -> None:
        """What the side process says, at the engine. Without co-scheduling or retention nobody listens."""
        if self.features.sessions or self.features.schedule:
            self.engine.cache.keeper.direct(directives)
        for each in directives:
            if isinstance(each, Warm):
                self._warm(each)

    def _warm(self, warm: Warm) -> None:
        """The next prompt is known once all results of a turn are."""
        session, number = self._next[warm.session]
        known = self._known.setdefault(session.id, set())
        known.add(warm.index)
        complete = len(known) == len(session.turns[number - 1].uses)
        if self.engine.warm is not None and complete and number < len(session.turns):
            there = session.shared + self.engine.cache.tokens(session.id)
            item, length = (session.id, session.shared), session.turns[number].prompt
            self.engine.warm.park(f"{session.id}/{number}", item, there, length, self._env.now)
            self.engine.wake()


def _late(policy: Policy) -> Policy:
    """The same tool, but never run early."""
    return msgspec.structs.replace(policy, speculate=False)


def _arguments(name: str) -> str:
    return json.dumps({"call": name})


def _name(session: Session, number: int, place: int) -> str:
    return f"{session.id}/{number}/{place}"
