"""The hooks by which sessions' KV is retained: what the scheduler's requests mean for it, and rank 0's decisions.

Requests pass here on every rank in the same order.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from sglang_paste.boundary import Sink
from sglang_paste.events import EngineEvent
from sglang_paste.patches import bus
from sglang_paste.patches.retention_metrics import RetentionMetrics
from sglang_paste.schedule.holds import Hold, Holds, Standing, Whose
from sglang_paste.schedule.keeper import Counts, Keeper
from sglang_paste.session.note import KEY, read

logger = logging.getLogger(__name__)

T = TypeVar("T")

ATTRIBUTE = "paste_place"
METRICS_S = 1.0
# A session that finds all but so many tokens of what it left has lost nothing: templates rewrite the end of a prompt.
SLACK = 64


class Retention:
    """What one rank retains; `keeper` decides, on rank 0 alone. `budget` is in tokens."""

    def __init__(self, budget: int, keeper: Keeper | None, *, metrics: bool = False) -> None:
        self.budget = budget
        self.holds = Holds()
        self.keeper = keeper
        self.counts = keeper.counts if keeper else Counts()
        self._metrics = RetentionMetrics(self.counts, self.holds) if metrics and keeper else None
        self._told = 0.0

    def queued(self, req: Any, place: "Place") -> None:
        """A session is back with a request."""
        wanted = [hold.request for hold in self.holds.want(req.rid, place.whose, req.origin_input_ids)]
        self.note(lambda keeper: keeper.book.continued(req.rid, place.whose, wanted, time.monotonic()))

    def released(self, req: Any, place: "Place", *, cached: bool) -> None:
        """A request has given its KV to the cache; what is there is held from now on."""
        tokens = req.kv.cache_protected_len
        self.note(lambda keeper: keeper.pace.observe(*_prefilled(req)))
        if place.ahead:
            if cached and tokens:
                self.holds.extend(place.whose, req.origin_input_ids, req.last_node, tokens)
        elif cached and tokens and req.finished_reason.to_json()["type"] != "abort":
            self._count(req)
            self.holds.add(req.rid, place.whose, req.origin_input_ids, req.last_node, tokens)
            self.note(lambda keeper: keeper.book.held(req.rid, place.whose, tokens, time.monotonic()))
        else:
            self.gone(req, place)

    def gone(self, req: Any, place: "Place") -> None:
        """A request has ended without an answer."""
        self.holds.settle(req.rid)
        self.note(lambda keeper: keeper.book.aborted(req.rid, place.whose, time.monotonic()))

    def note(self, act: Callable[[Keeper], T]) -> T | None:
        """Let the keeper know, where there is one. One that fails is done without: what is held then goes by age."""
        try:
            return act(self.keeper) if self.keeper else None
        except Exception:
            logger.exception("sessions are retained without a policy from now on")
            self.keeper = None
            return None

    def tell(self, now: float) -> None:
        """Metrics, once a second."""
        if self._metrics is not None and now >= self._told + METRICS_S:
            self._told = now
            self._metrics.follow()

    def give_up(self, holds: Sequence[Hold]) -> None:
        """These were open to an eviction."""
        self.counts.given_up += len(holds)
        self.holds.give_up(holds)

    def _count(self, req: Any) -> None:
        tokens = max((hold.tokens for hold in self.holds.wanted_by(req.rid)), default=0)
        if tokens:
            self.counts.returned(req.cached_tokens, tokens, SLACK)


def _prefilled(req: Any) -> tuple[int, float]:
    """How many tokens of a request were prefilled, and in how many seconds."""
    stats = req.time_stats
    return len(req.origin_input_ids) - req.cached_tokens, stats.prefill_finished_time - stats.forward_entry_time


class Place(NamedTuple):
    """What a request carries: where it is retained, and for whom. `ahead`: it is before its session."""

    retention: Retention
    whose: Whose
    ahead: bool


class Tap:
    """A sink that lets rank 0's book see what passes."""

    def __init__(self, retention: Retention, sink: Sink) -> None:
        self._retention = retention
        self._sink = sink

    def send(self, events: Sequence[EngineEvent]) -> None:
        """Never waits."""
        self._retention.note(lambda keeper: keeper.book.observe(events))
        self._sink.send(events)


def tapped(scheduler: Any, sink: Sink) -> Sink:
    """The sink of a scheduler's turns."""
    retention = of(scheduler)
    return Tap(retention, sink) if retention and retention.keeper else sink


def of(scheduler: Any) -> Retention | None:
    """What a scheduler retains, None where it does not."""
    return getattr(scheduler.tree_cache, "retention", None)


def place_of(req: Any) -> Place | None:
    """What `queued` left with a request."""
    return getattr(req, ATTRIBUTE, None)


def apply(scheduler: Any, standing: Standing) -> None:
    """What rank 0 made of the holds, on any rank."""
    retention = of(scheduler)
    if retention is not None:
        retention.holds.apply(standing)


def decide(scheduler: Any, now: float) -> Standing | None:
    """What rank 0 makes of the holds, where that has changed."""
    retention = of(scheduler)
    if retention is None or retention.keeper is None:
        return None
    directives = bus.sink("scheduler").receive()
    retention.tell(now)
    retention.note(lambda keeper: keeper.direct(directives))
    return retention.note(lambda keeper: keeper.decide(retention.holds, now)) or None


def queued(scheduler: Any, req: Any) -> None:
    """Before a request is queued: one with a note is a session's."""
    retention = of(scheduler)
    custom = req.sampling_params.custom_params
    if retention is None or not custom or KEY not in custom or place_of(req) is not None:
        return
    try:
        note = read(custom[KEY])
    except Exception:
        logger.exception("request %s is of no session", req.rid)
        return
    place = Place(retention, Whose(note.tenant, note.session), note.ahead is not None)
    setattr(req, ATTRIBUTE, place)
    if not place.ahead:
        retention.queued(req, place)


def aborted(_result: Any, req: Any, finished_reason: Any = None) -> None:
    """After `_make_abort_req`, on every rank: a request that leaves without an answer."""
    place = place_of(req)
    if place is not None and not place.ahead:
        place.retention.gone(req, place)


def streaming(_streamer: Any, reqs: list[Any], *_args: Any, **_kwargs: Any) -> None:
    """Before `SchedulerOutputStreamer.stream_output`, on every rank: some requests end with nothing but this, as where
    a prefill server is refused by its peer."""
    for req in reqs:
        if req.finished() and req.finished_reason.to_json()["type"] == "abort":
            aborted(None, req)
