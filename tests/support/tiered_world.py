"""The same cache with host memory under it. SGLang's own code moves the KV, but for the copying, which is CUDA's."""

from array import array
from collections.abc import Sequence
from typing import Any

from cache_world import MatchPrefixParams, RadixKey, ServerArgs, World
from sglang.srt.mem_cache.pool_host import common, mha

from sglang_paste.patches.retention_host import Moves, TieredCache, Tiers


def copy_rows(
    src_layers: Sequence[Any], dst_layers: Sequence[Any], src_indices: Any, dst_indices: Any, page_size: int
) -> None:
    """What `sgl_kernel.kvcacheio.transfer_kv_direct` does, at pages of one token."""
    for source, destination in zip(src_layers, dst_layers, strict=True):
        destination[dst_indices.long()] = source[src_indices.long()]


class TieredWorld(World):
    """A world whose host memory has four times the room of the device's."""

    def __init__(self, core: str, *, policy: str, **how: Any) -> None:
        setattr(mha, "transfer_kv_direct", copy_rows)  # noqa: B010 - it has none without CUDA
        common._cuda_host_register = lambda *_: None
        self.arguments = {
            "enable_hierarchical_cache": True,
            "hicache_ratio": 4.0,
            "hicache_io_backend": "direct",
            "hicache_mem_layout": "layer_first",
            "hicache_write_policy": policy,
            "device": "cpu",
        }
        super().__init__(core, **how)
        self.allocator.get_kvcache().get_key_buffer(0).normal_()
        self.tiers = Tiers(self.cache, self.keeper.book, 1 << 20)

    def made(self, params: Any) -> TieredCache:
        cache = TieredCache(params)
        cache.init_hicache(ServerArgs(model_path="dummy"), params)
        return cache

    def step(self) -> None:
        """What the scheduler does in every round."""
        self.cache.check_hicache_events()

    def keys(self, tokens: Sequence[int]) -> Any:
        """Those of cached tokens, in the first layer."""
        match = self.cache.match_prefix(MatchPrefixParams(key=RadixKey(array("q", tokens))))
        return self.allocator.get_kvcache().get_key_buffer(0)[self.cache.path_device_indices(match.last_device_node)]

    def decide(self, now: float) -> Moves | None:
        """Rank 0's word, acted on, and all copies done."""
        moves = self.tiers.decide(now)
        if moves is not None:
            self.cache.move(moves)
        self.step()
        return moves
