"""The engine of one server: continuous batching as SGLang's scheduler does it, prefill first, in chunks.

Between two moments at which something changes, all decode steps are one step of the model, so that a turn costs the
same few events whether it has ten tokens or ten thousand.
"""

import math
from collections.abc import Callable, Generator
from typing import Any

import msgspec
import simpy

from bench.replay.simulate.cache import Cache, whose
from bench.replay.simulate.workload import Features, Service, Session, Step, Turn
from sglang_paste.draft.gate import MARGIN
from sglang_paste.schedule.order import Rates, Waiting, Weights, order
from sglang_paste.schedule.warm import WarmLine

EXPECTED_OUT = 128

Process = Generator[simpy.Event, Any, None]


class Request(msgspec.Struct, eq=False, kw_only=True):
    """A turn in the engine. `cached` tokens were there; `left` have yet to be prefilled; `made` were decoded. `notes`
    are what is to be called when so many are, the last first. Times are the model's seconds."""

    rid: str
    session: Session
    turn: Turn
    arrived: float
    first: simpy.Event
    done: simpy.Event
    notes: list[tuple[int, Callable[[], None]]]
    cached: int = 0
    left: int = 0
    new: int = 0
    admitted: bool = False
    made: float = 0.0

    @property
    def pace(self) -> float:
        """Tokens a decode step."""
        return max((self.turn.output - 1) / max(self.turn.steps, 1), 1e-9)

    @property
    def context(self) -> float:
        """Tokens that a decode step attends to."""
        return self.turn.prompt + self.made

    def left_to(self, pace: float) -> float:
        """Decode steps of so many tokens until something is to be told or done."""
        goal = self.notes[-1][0] if self.notes else self.turn.output
        return max((min(goal, self.turn.output) - self.made) / pace, 0.0)


class Engine:
    """One scheduler and its cache. `busy` is how long its model ran, `prefilled` how many tokens it prefilled, and
    `steps` how often it decoded."""

    def __init__(
        self,
        env: simpy.Environment,
        service: Service,
        features: Features,
        *,
        warm_slice: int = 0,
        gated: bool = False,
    ) -> None:
        self.cache = Cache(service.pool, retains=features.sessions)
        self.warm: WarmLine[tuple[str, int]] | None = WarmLine(warm_slice) if warm_slice else None
        self.busy = 0.0
        self.prefilled = 0
        self.steps = 0.0
        self._env = env
        self._service = service
        self._drafts = features.drafts
        self._gated = gated
        self._ordered = features.schedule
        self._waiting: list[Request] = []
        self._running: list[Request] = []
        self._wake = env.event()
        self._warms = 0
        env.process(self._run())

    @property
    def load(self) -> float:
        """As the engine tells its side process: 1 where requests wait, else the share of those that may run."""
        return 1.0 if self._waiting else min(len(self._running) / self._service.running, 1.0)

    @property
    def requests(self) -> int:
        """Those that wait and those that run, which a router would count."""
        return len(self._waiting) + len(self._running)

    def submit(self, request: Request) -> None:
        """A request has reached the scheduler."""
        size = request.turn.prompt + request.turn.output
        if size > self._service.pool:
            raise ValueError(
                f"a turn of {request.session.id} takes {size} tokens and the pool has {self._service.pool}"
            )
        self.cache.want(request.session.id, request.rid, request.turn.prompt, self._env.now)
        self._waiting.append(request)
        self.wake()

    def wake(self) -> None:
        """There may be something to do."""
        if not self._wake.triggered:
            self._wake.succeed()

    def _run(self) -> Process:
        while True:
            self._wake = self._env.event()
            if batch := self._admit():
                yield from self._prefill(batch)
            elif self._running:
                yield from self._warm_up()
                yield from self._decode()
            elif not (yield from self._warm_up()):
                yield self._wake

    def _admit(self) -> list[tuple[Request, int]]:
        """The requests of the next prefill, and how many tokens of each."""
        if self._ordered and len(self._waiting) > 1:
            started = [request for request in self._waiting if request.admitted]
            others = [request for request in self._waiting if not request.admitted]
            self._waiting = started + [others[place] for place in self._order(others)]
        batch: list[tuple[Request, int]] = []
        room = self._service.chunk
        for request in self._waiting:
            if room <= 0 or len(self._running) + len(batch) >= self._service.running:
                break
            if not request.admitted and not self._start(request):
                break
            part = min(request.left, room)
            batch.append((request, part))
            room -= part
        return batch

    def _order(self, waiting: list[Request]) -> list[int]:
        service = self._service
        context = sum(each.context for each in self._running)
        decode = 1 / service.decode.seconds(max(len(self._running), 1), context)
        rates = Rates(prefill=1 / max(service.prefill.token, 1e-9), decode=decode)
        return order([self._as_waiting(request) for request in waiting], rates, Weights())

    def _as_waiting(self, request: Request) -> Waiting:
        there = self.cache.tokens(request.session.id) + request.session.shared
        known = self.cache.book.session(whose(request.session.id))
        return Waiting(
            waited=self._env.now - request.arrived,
            new_tokens=max(request.turn.prompt - there, 1),
            out_tokens=EXPECTED_OUT,
            pool_share=(request.turn.prompt + EXPECTED_OUT) / self._service.pool,
            hit_probability=known.hit_probability if known else 0.0,
            tool_seconds=known.tool_seconds if known else 0.0,
        )

    def _start(self, request: Request) -> bool:
        """Find what is cached and take room for the rest."""
        turn, session = request.turn, request.session
        path = self.cache.path(session.id)
        there = session.shared + path.tokens
        # What was warmed reaches to the last token but one, which has to be computed in any case.
        reach = turn.prompt - (1 if there >= turn.prompt else max(turn.fresh, 1))
        request.cached = max(min(there, reach), 0)
        request.left = turn.prompt - request.cached
        # What was cached beyond that is of no use and gives its room to what is new.
        request.new = max(turn.prompt + turn.output - there, 0)
        path.users += 1
        request.admitted = self.cache.take(request.new, self._env.now)
        if not request.admitted:
            path.users -= 1
        return request.admitted

    def _prefill(self, batch: list[tuple[Request, int]]) -> Process:
        cost = self._service.prefill
        seconds = cost.fixed + sum(
            cost.seconds(part, request.turn.prompt - request.left) - cost.fixed for request, part in batch
        )
        yield from self._work(seconds)
        for request, part in batch:
            request.left -= part
            self.prefilled += part
            if request.left <= 0:
                self._waiting.remove(request)
                self._running.append(request)
                request.made = 1.0
                request.first.succeed()
        self._settle()

    def _decode(self) -> Process:
        """Steps until the first of those that run has something to tell, or another request comes."""
        running = self._running
        context = sum(request.context for request in running)
        step, drafts = self._choose(context)
        paces = [request.pace if drafts else 1.0 for request in running]
        left = min(each.left_to(pace) for each, pace in zip(running, paces, strict=True))
        # A slice is prefilled between two steps.
        steps = 1 if self.warm else max(math.ceil(left - 1e-9), 1)

        def seconds(count: int) -> float:
            return count * step.seconds(len(running), context + sum(paces) * (count - 1) / 2)

        began = self._env.now
        yield self._env.timeout(seconds(steps)) | self._wake
        passed = self._env.now - began
        if passed < seconds(steps):
            steps = min(max(math.ceil(steps * passed / seconds(steps)), 1), steps)
            yield self._env.timeout(max(seconds(steps) - passed, 0.0))
        self.busy += self._env.now - began
        self.steps += steps
        for request, pace in zip(running, paces, strict=True):
            request.made += steps * pace
        self._settle()

    def _choose(self, context: float) -> tuple[Step, bool]:
        """What a step takes, and whether it verifies drafts: where they are gated, only if tokens come faster so."""
        service, count = self._service, len(self._running)
        if not self._drafts:
            return service.decode, True
        gain = sum(request.pace for request in self._running) / max(count, 1)
        plain, verify = (each.seconds(count, context) for each in (service.decode, service.verify))
        if self._gated and gain / verify < MARGIN / plain:
            return service.decode, False
        return service.verify, True

    def _settle(self) -> None:
        """Tell what is due, and let go of what has ended."""
        for request in list(self._running):
            while request.notes and request.notes[-1][0] <= request.made + 1e-6:
                request.notes.pop()[1]()
            if request.made + 1e-6 >= request.turn.output:
                self._running.remove(request)
                session = request.session.id
                self.cache.path(session).users -= 1
                self.cache.give(session, request.rid, request.turn.prompt, request.new, self._env.now)
                request.done.succeed()

    def _warm_up(self) -> Generator[simpy.Event, Any, bool]:
        """Prefill a slice of what a session will come back with; False where there is none."""
        given = self.warm.next(self._env.now) if self.warm else None
        if self.warm is None or given is None:
            return False
        slice, (session, shared) = given
        there = self.cache.tokens(session) + shared
        new = max(slice.end - there, 0)
        taken = new > 0 and self.cache.take(new, self._env.now)
        if taken:
            self.cache.path(session).users += 1
            yield from self._work(self._service.prefill.seconds(new, there))
            self.cache.path(session).users -= 1
            self.cache.extend(session, slice.end, new)
        self.warm.ended(slice.rid, self._env.now, prefilled=taken or not new)
        if not taken and new:
            self.warm.drop(slice.rid)
        return True

    def _work(self, seconds: float) -> Process:
        yield self._env.timeout(seconds)
        self.busy += seconds
