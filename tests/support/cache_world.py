"""SGLang's real radix cache over a small pool, and requests that go through it as the scheduler lets them."""

import os
import warnings
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from types import MappingProxyType
from typing import Any

from sglang_paste.calls import DEFAULT_TENANT, SessionId
from sglang_paste.schedule.book import Book
from sglang_paste.schedule.holds import Hold, Standing, Whose
from sglang_paste.schedule.keeper import Keeper
from sglang_paste.schedule.policies import POLICIES

os.environ.setdefault("SGLANG_USE_CPU_ENGINE", "1")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch
    from sglang.srt.managers.schedule_batch import FINISH_LENGTH, Req
    from sglang.srt.mem_cache.allocator import TokenToKVPoolAllocator
    from sglang.srt.mem_cache.allocator.paged import PagedTokenToKVPoolAllocator
    from sglang.srt.mem_cache.allocator.swa import SWATokenToKVPoolAllocator
    from sglang.srt.mem_cache.base_prefix_cache import MatchPrefixParams
    from sglang.srt.mem_cache.cache_init_params import CacheInitParams
    from sglang.srt.mem_cache.common import evict_from_tree_cache, release_kv_cache
    from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool, ReqToTokenPool
    from sglang.srt.mem_cache.radix_cache import RadixKey
    from sglang.srt.mem_cache.swa_memory_pool import SWAKVPool
    from sglang.srt.mem_cache.unified_cache.components import ComponentType
    from sglang.srt.sampling.sampling_params import SamplingParams
    from sglang.srt.server_args import ServerArgs, set_global_server_args_for_scheduler

    from sglang_paste.patches.retention import ATTRIBUTE, Place, Retention
    from sglang_paste.patches.retention_cache import RetainingCache


class World:
    """A cache of `size` tokens that retains up to `budget` of them; with a `window`, that of a model whose every other
    layer has no wider attention."""

    arguments: Mapping[str, Any] = MappingProxyType({})

    def __init__(
        self, core: str, *, size: int = 256, page_size: int = 1, budget: int | None = None, window: int | None = None
    ) -> None:
        set_global_server_args_for_scheduler(ServerArgs(model_path="dummy", page_size=page_size, **self.arguments))
        self.rows = ReqToTokenPool(size=16, max_context_len=1024, device="cpu", enable_memory_saver=False)
        self.allocator = _windowed(size, page_size) if window else _plain(size, page_size)
        self.cache = self.made(
            CacheInitParams(
                disable=False,
                req_to_token_pool=self.rows,
                token_to_kv_pool_allocator=self.allocator,
                page_size=page_size,
                tree_components=(ComponentType.FULL, *([ComponentType.SWA] if window else [])),
                sliding_window_size=window,
                tree_core_backend=core,
            )
        )
        self._windowed = bool(window)
        book = Book()
        self.keeper = Keeper(book, POLICIES["value"](book))
        self.retention = self.cache.retention = Retention(size if budget is None else budget, self.keeper)
        self.size = self.allocator.available_size()
        self._rids = count(1)

    def made(self, params: CacheInitParams) -> RetainingCache:
        """The cache under test."""
        return RetainingCache(params)

    def turn(self, session: str | None, tokens: Sequence[int]) -> int:
        """A whole request; returns how many of its tokens were cached. A session of None is a stranger."""
        with self.running(session, tokens) as req:
            return int(req.prefix_len)

    @contextmanager
    def running(self, session: str | None, tokens: Sequence[int]) -> Iterator[Any]:
        """A request that has its prompt in the cache, and ends when the block does."""
        req = self.queue(session, tokens)
        self.admit(req)
        yield req
        self.finish(req)

    def queue(self, session: str | None, tokens: Sequence[int]) -> Any:
        """A request that waits."""
        params = SamplingParams(temperature=0, max_new_tokens=1)
        req = Req(f"r{next(self._rids)}", "", array("q", tokens), params)
        if session is not None:
            place = Place(self.retention, Whose(DEFAULT_TENANT, SessionId(session)), ahead=False)
            setattr(req, ATTRIBUTE, place)
            self.retention.queued(req, place)
        return req

    def admit(self, req: Any) -> None:
        """Give a request its memory. Fails where there is none, which stock would have had as well."""
        req.init_next_round_input(self.cache)
        req.lock = self.cache.lock(req.last_node)
        req.kv.cache_protected_len = req.prefix_len
        length = len(req.origin_input_ids)
        self.rows.alloc([req])
        needed = -(-(length - req.prefix_len) // self.cache.page_size) * self.cache.page_size
        evict_from_tree_cache(self.cache, needed)
        added = self.allocator.alloc(needed)
        assert added is not None, f"no room for {needed} tokens"
        row = req.kv.req_pool_idx
        self.rows.write((row, slice(0, req.prefix_len)), self.cache.path_device_indices(req.last_node))
        self.rows.write((row, slice(req.prefix_len, length)), added[: length - req.prefix_len])
        req.kv.kv_committed_len = req.kv.kv_allocated_len = length
        req.cached_tokens = req.prefix_len

    def finish(self, req: Any, *, checkpoint: bool = True, reason: Any = None) -> None:
        """The request's last token is out."""
        req.finished_reason = reason or FINISH_LENGTH(length=0)
        release_kv_cache(req, self.cache, checkpoint=checkpoint)

    def held(self) -> list[Hold]:
        """What is held, the first to go first."""
        return self.retention.holds.in_order()

    def value(self, **values: float) -> None:
        """What rank 0 says of sessions."""
        holds = {hold.whose.session: hold.number for hold in self.held()}
        self.retention.holds.apply(Standing(tuple((holds[SessionId(name)], value) for name, value in values.items())))

    def cached(self, tokens: Sequence[int]) -> int:
        """How much of these tokens the cache has, without touching their age more than a look does."""
        key = RadixKey(array("q", tokens))
        return int(self.cache.match_prefix(MatchPrefixParams(key=key)).device_prefix_len)

    def abort(self, req: Any) -> None:
        """A request that waits is called off."""
        if hasattr(req, ATTRIBUTE):
            getattr(req, ATTRIBUTE).retention.gone(req, getattr(req, ATTRIBUTE))

    def flush(self) -> None:
        """What the scheduler does where nothing runs."""
        self.cache.reset()
        self.rows.clear()
        self.allocator.clear()

    def room(self) -> int:
        """How many tokens a request may have, by what the cache says."""
        cache = self.cache
        full = self._available() + cache.full_evictable_size()
        windowed = self.allocator.swa_available_size() + cache.swa_evictable_size() if self._windowed else full
        return int(min(full, windowed))

    def check(self, private: int = 0) -> None:
        """SGLang's own invariant: nothing leaks, where requests have so many tokens to themselves."""
        cache = self.cache
        room = self._available() + cache.full_evictable_size() + cache.full_protected_size() + private
        assert room == self.size, f"{self.size - room} tokens leaked"
        cache.sanity_check()

    def _available(self) -> int:
        allocator = self.allocator
        return int(allocator.full_available_size() if self._windowed else allocator.available_size())


def _plain(size: int, page_size: int) -> Any:
    shape = {"dtype": torch.bfloat16, "device": "cpu"}
    pool = MHATokenToKVPool(
        **shape, size=size, page_size=page_size, head_num=1, head_dim=8, layer_num=1, enable_memory_saver=False
    )
    if page_size == 1:
        return TokenToKVPoolAllocator(**shape, size=size, kvcache=pool, need_sort=False)
    return PagedTokenToKVPoolAllocator(**shape, size=size, page_size=page_size, kvcache=pool, need_sort=False)


def _windowed(size: int, page_size: int) -> Any:
    shape = {"dtype": torch.bfloat16, "device": "cpu", "size": size, "size_swa": size, "page_size": page_size}
    layers = {"swa_attention_layer_ids": [0], "full_attention_layer_ids": [1]}
    pool = SWAKVPool(**shape, **layers, head_num=1, head_dim=8)
    return SWATokenToKVPoolAllocator(**shape, kvcache=pool, need_sort=False)
