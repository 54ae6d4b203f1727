"""Waiting requests in the order of `schedule.order`, and those that `schedule.admission` holds back at the end of it:
rank 0 decides, all ranks do alike."""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
from sglang.srt.constants import HEALTH_CHECK_RID_PREFIX
from sglang.srt.managers.schedule_policy import CacheAgnosticPolicy
from sglang.srt.runtime_context import get_parallel

from sglang_paste.patches import retention
from sglang_paste.patches.arm import settings
from sglang_paste.patches.retention import Retention
from sglang_paste.schedule.admission import Claim, Stake, held_back
from sglang_paste.schedule.keeper import Keeper
from sglang_paste.schedule.order import Rates, Waiting, Weights, order

ORDERING = "paste_ordering"
PERIOD_S = 0.02
# What deciding may take of rank 0's time, however many wait.
SHARE = 0.05
IDLE_S = 0.001
EXPECTED_OUT = 128  # tokens
MAX_ORDERED = 512  # those that came first; the others keep their places behind them


class Order(msgspec.Struct, frozen=True):
    """The ids of waiting requests, the next one first; of those that are held back, which come last; and of those that
    have waited for so long that they no longer may be."""

    rids: tuple[str, ...]
    held: tuple[str, ...] = ()
    due: tuple[str, ...] = ()


class Ordering:
    """Who waits on one scheduler, in order. `held` are the requests that are not let in now."""

    def __init__(self, scheduler: Any) -> None:
        self.held: frozenset[str] = frozenset()
        self._due: frozenset[str] = frozenset()
        self._scheduler = scheduler
        self._soonest = self._next = 0.0
        self._undecided = False
        self._added = 0

    def arrived(self, req: Any) -> None:
        """A request is about to be queued, on any rank: where room is short it waits for what rank 0 says of it."""
        if retained := _holding(self._scheduler):
            self._hold_back([req], retained.holds.tokens())

    def left(self) -> None:
        """Requests are about to be let in, on any rank: they do not take the place of a session that has just left
        before rank 0 has said so."""
        retained = _holding(self._scheduler)
        if retained is None or retained.holds.added == self._added:
            return
        fresh = retained.holds.since(self._added)
        self._added = retained.holds.added
        self._hold_back(self._scheduler.waiting_queue[:MAX_ORDERED], sum(hold.tokens for hold in fresh))

    def _hold_back(self, reqs: Iterable[Any], kept: int) -> None:
        """Until rank 0 has said more of them: those who would take some of so many tokens."""
        if not _by_arrival(self._scheduler):
            return
        room, known = _available(self._scheduler) - kept, self.held | self._due
        waits = [
            req.rid
            for req in reqs
            if req.rid not in known and not _goes_on(req) and _tokens(req) - _cached(req) + _out(req) > room
        ]
        if waits:
            self.held |= frozenset(waits)
            self._undecided = True

    def apply(self, wanted: Order) -> None:
        """Rearrange those who wait, on any rank; who is not named stands behind the others."""
        places = {rid: place for place, rid in enumerate(wanted.rids)}
        queue = self._scheduler.waiting_queue
        queue.sort(key=lambda req: places.get(req.rid, len(places)))
        # Of whom rank 0 could not know, what was said on arrival holds until it does.
        unknown = {rid for rid in self.held if rid not in places} if len(queue) <= MAX_ORDERED else set()
        self.held, self._due = frozenset(wanted.held) | unknown, frozenset(wanted.due)
        self._undecided = self._undecided or bool(unknown)
        if retained := _holding(self._scheduler):
            self._added = retained.holds.added

    def decide(self, now: float) -> Order | None:
        """A better order, on rank 0: at once for those of whom nothing was said, else every PERIOD_S at most; and
        never for more than a SHARE of the time."""
        queue = self._scheduler.waiting_queue
        if not settings().return_bound or not _by_arrival(self._scheduler):
            return None
        if now < (self._soonest if self._undecided else self._next):
            return None
        if not (self._undecided or self.held or len(queue) > 1):
            return None
        self._undecided, began = False, time.perf_counter()
        wanted = self._wanted(queue[:MAX_ORDERED], now)
        self._soonest = now + (time.perf_counter() - began) / SHARE
        self._next = max(self._soonest, now + PERIOD_S)
        told = [req.rid for req in queue[:MAX_ORDERED]]
        held, due = (tuple(rid for rid in told if rid in some) for some in (self.held, self._due))
        return None if wanted == Order(tuple(told), held, due) else wanted

    def _wanted(self, queue: list[Any], now: float) -> Order:
        clock = time.perf_counter()
        arrived = sorted(queue, key=lambda req: req.time_stats.wait_queue_entry_time or clock)
        waiting = [_waiting(self._scheduler, req, clock) for req in arrived]
        places = order(waiting, _rates(self._scheduler), Weights(bound=settings().return_bound))
        retained = _holding(self._scheduler)
        found = (
            retained.note(lambda keeper: self._held(retained, keeper, [arrived[p] for p in places], now))
            if retained
            else None
        )
        held, bound = frozenset(found or ()), settings().return_bound
        rids = [arrived[place].rid for place in places]
        due = [arrived[place].rid for place in places if retained and waiting[place].waited >= bound]
        return Order(
            (*(rid for rid in rids if rid not in held), *(rid for rid in rids if rid in held)),
            tuple(rid for rid in rids if rid in held),
            tuple(due),
        )

    def _held(self, retained: Retention, keeper: Keeper, queue: Sequence[Any], now: float) -> list[str]:
        """The requests to be held back, of those in order."""
        clock, holds = time.perf_counter(), retained.holds.in_order()
        tokens = self._scheduler.tree_cache.stakes(holds)
        stakes = [Stake(size, keeper.worth(hold, now)) for size, hold in zip(tokens, holds, strict=True)]
        places = {hold.number: place for place, hold in enumerate(holds)}
        asking = [req for req in queue if not _goes_on(req)]
        claims = [
            Claim(
                need=_tokens(req) - _cached(req) + _out(req),
                waited=_waited(req, clock),
                own=frozenset(places[hold.number] for hold in _continued(req) if hold.number in places),
            )
            for req in asking
        ]
        room = _available(self._scheduler) - sum(tokens)
        return [asking[place].rid for place in held_back(claims, stakes, room, settings().return_bound)]


def admitting(original: Callable[..., Any], scheduler: Any, *args: Any, **kwargs: Any) -> Any:
    """Around `Scheduler._get_new_batch_prefill_raw`: it sees those who wait without those who are held back."""
    ordering = getattr(scheduler, ORDERING)
    ordering.left()
    if not ordering.held:
        return original(scheduler, *args, **kwargs)
    kept = [req for req in scheduler.waiting_queue if req.rid in ordering.held]
    ordering.held = held = frozenset(req.rid for req in kept)
    scheduler.waiting_queue = [req for req in scheduler.waiting_queue if req.rid not in held]
    try:
        batch, running = original(scheduler, *args, **kwargs)
    finally:
        scheduler.waiting_queue += kept
    if batch is None and running.is_empty() and not scheduler.require_mlp_sync:
        time.sleep(IDLE_S)
    return batch, running


def _by_arrival(scheduler: Any) -> bool:
    """Whether nobody has asked for another order."""
    return scheduler.policy.policy == CacheAgnosticPolicy.FCFS and not scheduler.enable_priority_scheduling


def _holding(scheduler: Any) -> Retention | None:
    """What is retained, where requests may be held back for it. In a pipeline each stage would have to know at once."""
    retained = retention.of(scheduler)
    if retained is None or not retained.budget or not settings().return_bound or get_parallel().pp_size > 1:
        return None
    return retained


def _goes_on(req: Any) -> bool:
    """Whether a request has been let in before, or belongs to the server itself."""
    return bool(req.output_ids) or req.kv.holds_kv or req.rid.startswith(HEALTH_CHECK_RID_PREFIX)


def _available(scheduler: Any) -> int:
    """Tokens that are free or that an eviction would free."""
    return int(scheduler.token_to_kv_pool_allocator.available_size() + scheduler.tree_cache.full_evictable_size())


def _continued(req: Any) -> list[Any]:
    place = retention.place_of(req)
    return [hold for hold in place.retention.holds.wanted_by(req.rid) if hold.node is not None] if place else []


def _cached(req: Any) -> int:
    return max((hold.tokens for hold in _continued(req)), default=0)


def _tokens(req: Any) -> int:
    return len(req.origin_input_ids) + len(req.output_ids)


def _out(req: Any) -> int:
    return min(req.sampling_params.max_new_tokens or 0, EXPECTED_OUT)


def _waited(req: Any, clock: float) -> float:
    return max(clock - (req.time_stats.wait_queue_entry_time or clock), 0.0)


def _waiting(scheduler: Any, req: Any, clock: float) -> Waiting:
    place = retention.place_of(req)
    keeper = place.retention.keeper if place else None
    session = keeper.book.session(place.whose) if place and keeper else None
    return Waiting(
        waited=_waited(req, clock),
        new_tokens=max(_tokens(req) - _cached(req), 1),
        out_tokens=_out(req),
        pool_share=(_tokens(req) + _out(req)) / scheduler.max_total_num_tokens,
        hit_probability=session.hit_probability if session else 0.0,
        tool_seconds=session.tool_seconds if session else 0.0,
    )


def _rates(scheduler: Any) -> Rates:
    """As they were measured, or a guess before they were."""
    retained, guess = retention.of(scheduler), Rates()
    running = max(len(scheduler.running_batch.reqs), 1)
    decode = getattr(scheduler.metrics_reporter, "last_gen_throughput", 0.0) / running
    prefill = retained.keeper.pace.prefill if retained and retained.keeper else guess.prefill
    return Rates(prefill=prefill, decode=decode or guess.decode)
