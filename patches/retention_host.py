"""Retention over SGLang's hierarchical cache: what is evicted lies on the host, and comes back before its session."""

import logging
from typing import Any

import msgspec
from sglang.srt.mem_cache.base_prefix_cache import EvictParams, EvictResult

from sglang_paste.patches.retention import of
from sglang_paste.patches.retention_cache import RetainingCache
from sglang_paste.schedule.book import Book
from sglang_paste.schedule.holds import Hold
from sglang_paste.schedule.host import Kept, coming, due, stays
from sglang_paste.schedule.policies import Value

logger = logging.getLogger(__name__)

PERIOD_S = 0.1
# Bytes per second of a copy, taken to be what the slowest usual link can do; those under way take this long at most.
COPY_RATE = 12e9
COPIES_S = 0.25
REMEMBERED = 256


class Moves(msgspec.Struct, frozen=True):
    """What rank 0 makes of the holds, by number: those to copy to the host, those to bring back, and those that lie
    there for nobody any more."""

    down: tuple[int, ...] = ()
    up: tuple[int, ...] = ()
    gone: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.down or self.up or self.gone)


class TieredCache(RetainingCache):
    """Knows where on the host lies what it had to give up. On every rank the same, since all evict alike."""

    def __init__(self, params: Any) -> None:
        super().__init__(params)
        self.parked: dict[int, tuple[Hold, Any]] = {}
        self._loading = -1

    def reset(self) -> None:
        super().reset()
        self.parked, self._loading = {}, -1

    def _evict(self, params: EvictParams, *args: Any, **kwargs: Any) -> EvictResult:
        holds = self.retention.holds.in_order() if self.retention else []
        nodes = [(hold, hold.node) for hold in holds]
        result = super()._evict(params, *args, **kwargs)
        for hold, node in nodes:
            if hold.node is None and self.is_on_host(node):
                self.parked[hold.number] = hold, node
        while len(self.parked) > REMEMBERED:
            del self.parked[next(iter(self.parked))]
        return result

    def ready_to_load_host_cache(self) -> int:
        """A batch waits for what is being brought back, as it does for what it brings back itself."""
        index = int(super().ready_to_load_host_cache())
        if index >= 0 or (self._loading >= 0 and self.is_load_back_event_done(self._loading)):
            self._loading = -1
        return max(index, self._loading)

    def is_on_host(self, node: Any) -> bool:
        """Whether a node has a copy there, and is known still."""
        try:
            return bool(self.is_backuped(node))
        except KeyError:
            return False

    def move(self, moves: Moves) -> None:
        """What rank 0 said, on any rank."""
        holds = self.retention.holds if self.retention else None
        if holds is None or self.cache_controller is None:
            return
        for hold in holds.in_order():
            if hold.number in moves.down and not self.is_on_host(hold.node):
                self._execute_and_commit_kv_backup(self.tree_core.build_backup_kv_action(hold.node))
        for number in moves.gone:
            self.parked.pop(number, None)
        for number in moves.up:
            parked = self.parked.pop(number, None)
            if parked is not None and self.is_on_host(parked[1]) and self.load_back(parked[1]):
                holds.restore(*parked)
        if moves.up:
            self._loading = super().ready_to_load_host_cache()


class Tiers:
    """Rank 0's decisions over the two."""

    def __init__(self, cache: TieredCache, book: Book, knee: int) -> None:
        self._cache = cache
        self._book = book
        self._policy = Value(book, knee)
        self._next = 0.0
        self._rate = COPY_RATE / max(cache.cache_controller.mem_pool_host.size_per_token, 1)

    def decide(self, now: float) -> Moves | None:
        """What to move, every PERIOD_S at most."""
        cache, retention = self._cache, self._cache.retention
        if now < self._next or retention is None or not (cache.parked or len(retention.holds)):
            return None
        self._next = now + PERIOD_S
        held = retention.holds.in_order()
        down = [hold.number for hold in held if self._leaves(hold, now)]
        waiting, gone = self._waiting(now)
        up: list[int] = []
        if waiting and cache.has_free_load_back_slot():
            room = max(cache.token_to_kv_pool_allocator.available_size() + cache.full_evictable_size(), 0)
            room = max(room - sum(hold.tokens for hold in held), 0)
            values = [Kept(hold.number, hold.tokens, hold.value) for hold in held if not hold.wanted]
            up = coming(waiting, values, room, int(self._rate * COPIES_S))
        return Moves(tuple(down), tuple(up), tuple(gone)) or None

    def _leaves(self, hold: Hold, now: float) -> bool:
        """Whether a session is away for long, and has no copy there though others get theirs without us."""
        branch = self._book.branch(hold.whose, hold.request)
        if branch is None or branch.state not in ("away", "idle") or self._cache.write_through_threshold == 1:
            return False
        absence = self._book.absence(branch)
        long = stays(absence, now - branch.since, hold.tokens / self._rate)
        return long and not self._cache.is_write_back and not self._cache.is_on_host(hold.node)

    def _waiting(self, now: float) -> tuple[list[Kept], list[int]]:
        """Those on the host that are due, and those that need not be known any more."""
        waiting, gone = [], []
        for number, (hold, node) in self._cache.parked.items():
            branch = self._book.branch(hold.whose, hold.request)
            alive = branch is not None and branch.state in ("away", "idle") and hold.node is None
            if branch is None or not alive or not self._cache.is_on_host(node) or self._policy.until(branch) <= now:
                gone.append(number)
            elif due(self._book.absence(branch), now - branch.since, hold.tokens / self._rate):
                waiting.append(Kept(number, hold.tokens, self._policy.score(branch, now)))
        return waiting, gone


def tiers(scheduler: Any) -> Tiers | None:
    """Those of a scheduler whose cache keeps host copies, on the rank that decides."""
    cache, retention = scheduler.tree_cache, of(scheduler)
    if not isinstance(cache, TieredCache) or retention is None or retention.keeper is None:
        return None
    if cache.cache_controller is None or cache.buffer_pipeline is not None:
        return None
    return Tiers(cache, retention.keeper.book, 6 * scheduler.model_config.hidden_size)


def apply(scheduler: Any, moves: Moves) -> None:
    """What rank 0 said, on any rank."""
    if isinstance(scheduler.tree_cache, TieredCache):
        scheduler.tree_cache.move(moves)
