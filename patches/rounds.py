"""What rank 0 decides at the beginning of each round of the scheduler's loop: it joins the requests that were received,
the way SGLang's own time limits do, so that all ranks act on it in the same iteration. Only rank 0 reads a clock."""

import time
from functools import partial
from typing import Any

from sglang.utils import TypeBasedDispatcher

from sglang_paste.patches import bus, intake, retention, retention_host
from sglang_paste.patches.retention_host import Moves
from sglang_paste.patches.return_order import ORDERING, Order, Ordering
from sglang_paste.schedule.holds import Standing

TIERS = "paste_tiers"


def dispatching(_result: None, scheduler: Any) -> None:
    """After `Scheduler.init_request_dispatcher`: what rank 0 says has a place to go to."""
    intake.serve(scheduler)
    ordering = Ordering(scheduler)
    setattr(scheduler, ORDERING, ordering)
    setattr(scheduler, TIERS, retention_host.tiers(scheduler))
    acts = [
        (Standing, partial(retention.apply, scheduler)),
        (Moves, partial(retention_host.apply, scheduler)),
        (Order, ordering.apply),
    ]
    scheduler._request_dispatcher += TypeBasedDispatcher(acts)


def queued(scheduler: Any, req: Any, is_retracted: bool = False) -> None:
    """Before `Scheduler._add_request_to_queue`, on every rank."""
    if not is_retracted:
        retention.queued(scheduler, req)
        getattr(scheduler, ORDERING).arrived(req)


def polled(result: list[Any], scheduler: Any) -> list[Any] | None:
    """After `Scheduler._poll_timeout_aborts`, which only rank 0 calls."""
    now = time.monotonic()
    bus.sink("scheduler").load = _load(scheduler)
    tiers = getattr(scheduler, TIERS)
    decided = (
        retention.decide(scheduler, now),
        tiers.decide(now) if tiers is not None else None,
        getattr(scheduler, ORDERING).decide(now),
    )
    said = [each for each in decided if each is not None]
    return [*result, *said] if said else None


def _load(scheduler: Any) -> float:
    """1 where requests wait, else the share of those that may run at once that do."""
    return (
        1.0 if scheduler.waiting_queue else len(scheduler.running_batch.reqs) / max(scheduler.max_running_requests, 1)
    )
