"""Prompts that are prefilled ahead, on the rank that receives for all: they wait outside of the scheduler's queue, and
are handed in slice by slice while nothing real waits, before the other ranks are told what came."""

import copy
import time
import weakref
from collections.abc import Callable
from typing import Any

from sglang.srt.runtime_context import get_observability
from sglang.srt.sampling.sampling_params import TOP_K_ALL

from sglang_paste.patches.arm import settings
from sglang_paste.patches.counters import Counters
from sglang_paste.patches.warm import PREFIX
from sglang_paste.schedule.warm import WarmLine
from sglang_paste.session.note import KEY, read

_TEXTS = {
    "prompts": ("outcome", "Prompts of sessions that were away, by what became of them."),
    "tokens": ("source", "Tokens that were prefilled ahead of their sessions."),
}

_line: WarmLine[Any] | None = None
_metrics: Counters | None = None
_scheduler: weakref.ref[Any] | None = None


def line() -> WarmLine[Any]:
    """That of this process."""
    global _line
    if _line is None:
        _line = WarmLine(settings().warm_slice or 1)
    return _line


def serve(scheduler: Any) -> None:
    """The scheduler of this process is this one."""
    global _scheduler
    _scheduler = weakref.ref(scheduler)


def pulled(result: list[Any] | None, receiver: Any) -> list[Any] | None:
    """After `SchedulerRequestReceiver._pull_raw_reqs`: prompts that are ahead are parked, and forgotten again where
    their session came back. Where nothing else came, the next slice does; one that still waits is called off where
    anything did. So it shares its batch with nobody: its end by length keeps it out of the decode batch as well."""
    scheduler = _scheduler() if _scheduler is not None else None
    if scheduler is None or result is None or not (result or line()):
        return None
    others = [each for each in result if not _is_ours(each) or _goes_on(each)]
    rid = line().under_way
    if rid is None:
        return others or _slice(scheduler)
    if not _waits(scheduler, rid) or not (others or any(req.rid != rid for req in scheduler.waiting_queue)):
        return others
    from sglang.srt.managers.io_struct import AbortReq

    return [AbortReq(rid=rid), *others]


def streaming(
    streamer: Any, reqs: list[Any], *args: Any, **kwargs: Any
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Before `SchedulerOutputStreamer.stream_output`: what was prefilled ahead is answered to nobody."""
    rid = line().under_way
    if rid is None:
        return None
    ours = [req for req in reqs if req.rid == rid]
    if not ours:
        return None
    if ours[0].finished():
        reason = ours[0].finished_reason.to_json()
        _ended(rid, prefilled=reason.get("type") != "abort")
    return (streamer, [req for req in reqs if req.rid != rid], *args), kwargs


def aborting(original: Callable[..., Any], scheduler: Any, abort_req: Any, req: Any) -> Any:
    """Around `Scheduler.send_abort_output`: nor is its end."""
    if req.rid != line().under_way:
        return original(scheduler, abort_req, req)
    _ended(req.rid, prefilled=False)
    return None


def _ended(rid: str, *, prefilled: bool) -> None:
    global _metrics
    line().ended(rid, time.monotonic(), prefilled=prefilled)
    if _metrics is None and get_observability().enable_metrics:
        _metrics = Counters("warm", _TEXTS, line().values)
    if _metrics is not None:
        _metrics.follow()


def _slice(scheduler: Any) -> list[Any]:
    """A slice for a scheduler that has nothing else to prefill."""
    batch = scheduler.running_batch
    if batch.batch_is_full or len(batch.reqs) >= scheduler.max_running_requests or scheduler.chunked_req is not None:
        return []
    if scheduler.waiting_queue or scheduler.grammar_manager.has_waiting_grammars():
        return []
    given = line().next(time.monotonic())
    if given is None:
        return []
    piece, item = given
    request = copy.copy(item)
    request.sampling_params = _sampling(scheduler, item.sampling_params)
    request.input_ids = item.input_ids[: piece.end]
    return [request]


def _sampling(scheduler: Any, given: Any) -> Any:
    """How a slice's token, which nobody sees, is sampled: greedily beside requests that all are. After one whose tokens
    are drawn, SGLang draws those of all who ran beside it, and of equal logits another wins."""
    sampling, running = copy.copy(given), scheduler.running_batch
    info = None if running.is_empty() else running.sampling_info
    sampling.top_k = 1 if info is None or info.is_all_greedy else TOP_K_ALL
    return sampling


def _waits(scheduler: Any, rid: str) -> bool:
    """Whether a slice has not begun, or goes on in chunks."""
    chunked = scheduler.chunked_req
    return any(req.rid == rid for req in scheduler.waiting_queue) or (chunked is not None and chunked.rid == rid)


def _is_ours(received: Any) -> bool:
    rid = getattr(received, "rid", None)
    return isinstance(rid, str) and rid.startswith(PREFIX)


def _goes_on(received: Any) -> bool:
    """Whether the scheduler is to see it; a prompt that is ahead is parked instead."""
    if not hasattr(received, "input_ids"):
        return line().drop(received.rid)  # an abort
    custom = getattr(received.sampling_params, "custom_params", None) or {}
    ahead = read(custom[KEY]).ahead if KEY in custom else None
    if ahead is None:
        return True  # a client's request under such a name
    line().park(received.rid, received, ahead, len(received.input_ids), time.monotonic())
    return False
