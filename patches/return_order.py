"""Waiting requests in the order of `schedule.order`: rank 0 decides, all ranks rearrange alike."""

import time
from typing import Any

import msgspec
from sglang.srt.managers.schedule_policy import CacheAgnosticPolicy

from sglang_paste.patches import retention
from sglang_paste.patches.arm import settings
from sglang_paste.schedule.order import Rates, Waiting, Weights, order

PERIOD_S = 0.02
EXPECTED_OUT = 128  # tokens
MAX_ORDERED = 512  # those that came first; the others keep their places behind them


class Order(msgspec.Struct, frozen=True):
    """The ids of waiting requests, the next one first."""

    rids: tuple[str, ...]


class Ordering:
    """Who waits on one scheduler, in order."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._next = 0.0

    def apply(self, wanted: Order) -> None:
        """Rearrange those who wait, on any rank; who is not named stands behind the others."""
        places = {rid: place for place, rid in enumerate(wanted.rids)}
        self._scheduler.waiting_queue.sort(key=lambda req: places.get(req.rid, len(places)))

    def decide(self, now: float) -> Order | None:
        """A better order, on rank 0, every PERIOD_S at most."""
        queue = self._scheduler.waiting_queue
        if len(queue) < 2 or now < self._next or not settings().return_bound or not _by_arrival(self._scheduler):
            return None
        self._next = now + PERIOD_S
        return _wanted(self._scheduler, queue[:MAX_ORDERED])


def _by_arrival(scheduler: Any) -> bool:
    """Whether nobody has asked for another order."""
    return scheduler.policy.policy == CacheAgnosticPolicy.FCFS and not scheduler.enable_priority_scheduling


def _wanted(scheduler: Any, queue: list[Any]) -> Order | None:
    """The order of `queue`, None where it stands so already."""
    now = time.perf_counter()
    arrived = sorted(queue, key=lambda req: req.time_stats.wait_queue_entry_time or now)
    requests = [_waiting(scheduler, req, now) for req in arrived]
    places = order(requests, _rates(scheduler), Weights(bound=settings().return_bound))
    wanted = [arrived[place].rid for place in places]
    return None if wanted == [req.rid for req in queue] else Order(tuple(wanted))


def _waiting(scheduler: Any, req: Any, now: float) -> Waiting:
    tokens, held, session = len(req.origin_input_ids) + len(req.output_ids), 0, None
    place = retention.place_of(req)
    if place is not None:
        wanted = place.retention.holds.wanted_by(req.rid)
        held = max((hold.tokens for hold in wanted if hold.node is not None), default=0)
        keeper = place.retention.keeper
        session = keeper.book.session(place.whose) if keeper else None
    out = min(req.sampling_params.max_new_tokens or 0, EXPECTED_OUT)
    return Waiting(
        waited=max(now - (req.time_stats.wait_queue_entry_time or now), 0.0),
        new_tokens=max(tokens - held, 1),
        out_tokens=out,
        pool_share=(tokens + out) / scheduler.max_total_num_tokens,
        hit_probability=session.hit_probability if session else 0.0,
        tool_seconds=session.tool_seconds if session else 0.0,
    )


def _rates(scheduler: Any) -> Rates:
    """As SGLang measured them last, or a guess before it did."""
    reporter, guess = scheduler.metrics_reporter, Rates()
    running = max(len(scheduler.running_batch.reqs), 1)
    decode = getattr(reporter, "last_gen_throughput", 0.0) / running
    return Rates(
        prefill=getattr(reporter, "last_input_throughput", 0.0) or guess.prefill, decode=decode or guess.decode
    )
