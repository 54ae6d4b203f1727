"""A radix cache whose evictions spare what sessions will come back for."""

from collections.abc import Callable, Sequence
from typing import Any

from sglang.srt.mem_cache.base_prefix_cache import EvictParams, EvictResult, TreeLock
from sglang.srt.mem_cache.unified_cache.components import ComponentType
from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache
from sglang.srt.runtime_context import get_observability, get_parallel

from sglang_paste.patches.arm import settings
from sglang_paste.patches.retention import Retention, place_of
from sglang_paste.schedule.book import Book
from sglang_paste.schedule.holds import Hold
from sglang_paste.schedule.keeper import Keeper
from sglang_paste.schedule.policies import POLICIES

# Room that is made beyond what an eviction is asked for: tokens for each hold, and at most this part of the cache.
SLACK_TOKENS = 8
SLACK_SHARE = 256

Targets = dict[ComponentType, tuple[ComponentType, int]]


class RetainingCache(UnifiedRadixCache):  # type: ignore[misc]
    """Holds are pins for the length of an eviction, and at no other time.

    So the scheduler sees the room that it would see without them: it admits, retracts and refuses as it would, its
    leak check and its flushes know nothing of holds, and nothing can wait for one. Within an eviction what is held is
    opened, the least valuable first, until there is as much to evict as is asked for; what was open is held no longer.
    """

    retention: Retention | None = None

    def reset(self) -> None:
        super().reset()
        if self.retention is not None:
            self.retention.holds.clear()

    def on_release(self, req: Any, *, checkpointed: bool) -> None:
        super().on_release(req, checkpointed=checkpointed)
        place = place_of(req)
        if place is not None and req.finished():
            place.retention.released(req, place, cached=checkpointed)

    def _evict(
        self,
        params: EvictParams,
        available_size_targets: Targets | None = None,
        *,
        allocation_reclaim_satisfied: Callable[[], bool] | None = None,
    ) -> EvictResult:
        def evict(asked: EvictParams) -> EvictResult:
            return super(RetainingCache, self)._evict(
                asked, available_size_targets, allocation_reclaim_satisfied=allocation_reclaim_satisfied
            )

        def done(rest: EvictParams) -> bool:
            if allocation_reclaim_satisfied is not None:
                return allocation_reclaim_satisfied()
            if available_size_targets is not None:
                return all(self._component_available_size(ct) >= size for ct, size in available_size_targets.values())
            return not (rest.num_tokens or rest.swa_num_tokens or rest.mamba_num)

        retention = self.retention
        if retention is None or self.disable or not len(retention.holds):
            return evict(params)
        shut, opened = self._shut(retention)
        try:
            total = EvictResult()
            while True:
                rest = _rest(params, total)
                while shut and self._lacks(rest):
                    opened.append(self._open(shut))
                total = _sum(total, evict(params if available_size_targets is not None else rest))
                if not shut or done(_rest(params, total)):
                    break
                opened.append(self._open(shut))
            if total.num_tokens_evicted or total.swa_num_tokens_evicted or total.mamba_num_evicted:
                self._make_more(len(shut))
                retention.give_up(opened)
            return total
        finally:
            while shut:
                self._open(shut)

    def stakes(self, holds: Sequence[Hold]) -> list[int]:
        """For each hold the tokens that neither those behind it nor running requests share: what is lost with it, where
        they are given up in this order."""
        before, found = self.full_protected_size(), []
        pinned: list[tuple[Hold, TreeLock | None]] = []
        try:
            for hold in reversed(holds):
                pinned.append((hold, self._pin(hold)))
                found.append((after := self.full_protected_size()) - before)
                before = after
        finally:
            while pinned:
                self._open(pinned)
        return found[::-1]

    def _make_more(self, shut: int) -> None:
        """To shut holds takes its time, so that it is worth having some room for what is asked for next; but none is
        opened for it."""
        slack = min(
            shut * SLACK_TOKENS, self.token_to_kv_pool_allocator.size // SLACK_SHARE, self.full_evictable_size()
        )
        if slack > 0:
            super()._evict(EvictParams(num_tokens=slack))

    def _shut(self, retention: Retention) -> tuple[list[tuple[Hold, TreeLock | None]], list[Hold]]:
        """Pin the most valuable holds that the budget has room for, the least valuable last; and the others."""
        holds = retention.holds.in_order()
        before = self.full_protected_size()
        shut: list[tuple[Hold, TreeLock | None]] = []
        while holds:
            hold = holds.pop()
            shut.append((hold, self._pin(hold)))
            if self.full_protected_size() - before > retention.budget:
                holds.append(self._open(shut))
                break
        return shut, holds

    def _pin(self, hold: Hold) -> TreeLock | None:
        """A lock, or nothing where the tree has no more than keys and values, and a pin does at a quarter the price."""
        if len(self.tree_components) > 1:
            return self.lock(hold.node)
        self.tree_core.inc_full_pin(hold.node)
        return None

    def _open(self, shut: list[tuple[Hold, TreeLock | None]]) -> Hold:
        hold, lock = shut.pop()
        if lock is not None:
            self.unlock(lock)
        else:
            self.tree_core.dec_full_pin(hold.node)
        return hold

    def _lacks(self, asked: EvictParams) -> bool:
        return bool(
            asked.num_tokens > self.full_evictable_size()
            or asked.swa_num_tokens > self.swa_evictable_size()
            or asked.mamba_num > self.mamba_evictable_size()
        )


def made(original: Callable[..., Any], ctx: Any, *, cache_class: type[Any] | None = None) -> Any:
    """Around `create_unified_radix_cache`: the server's cache retains, unless it is another one. Without a budget it is
    SGLang's own, and rank 0 keeps its book for the return order alone."""
    share = settings().retention_budget
    if cache_class is not None or ctx.disable_radix_cache:
        return original(ctx, cache_class=cache_class)
    cache = original(ctx, cache_class=_kind(ctx) if share else None)
    keeper = None
    parallel = get_parallel()
    if not (parallel.pp_rank or parallel.attn_tp_rank or parallel.attn_cp_rank):
        book = Book()
        keeper = Keeper(book, POLICIES[settings().retention_policy](book, knee=6 * ctx.model_config.hidden_size))
    budget = int(share * ctx.params.token_to_kv_pool_allocator.size)
    cache.retention = Retention(budget, keeper, metrics=get_observability().enable_metrics)
    return cache


def _kind(ctx: Any) -> type[RetainingCache]:
    """With SGLang's hierarchical cache, or without."""
    if not ctx.enable_hierarchical_cache:
        return RetainingCache
    from sglang_paste.patches.retention_host import TieredCache

    return TieredCache


def _rest(asked: EvictParams, done: EvictResult) -> EvictParams:
    return EvictParams(
        num_tokens=max(asked.num_tokens - done.num_tokens_evicted, 0),
        swa_num_tokens=max(asked.swa_num_tokens - done.swa_num_tokens_evicted, 0),
        mamba_num=max(asked.mamba_num - done.mamba_num_evicted, 0),
    )


def _sum(one: EvictResult, other: EvictResult) -> EvictResult:
    return EvictResult(
        num_tokens_evicted=one.num_tokens_evicted + other.num_tokens_evicted,
        swa_num_tokens_evicted=one.swa_num_tokens_evicted + other.swa_num_tokens_evicted,
        mamba_num_evicted=one.mamba_num_evicted + other.mamba_num_evicted,
    )
