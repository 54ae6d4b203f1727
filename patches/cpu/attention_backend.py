"""The attention backend `paste_cpu`: an extend attends the new queries only; decode and draft trees included."""

from typing import Any

import torch
from sglang.srt.layers.attention.base_attn_backend import AttentionBackend
from sglang.srt.layers.radix_attention import AttentionType, RadixAttention
from sglang.srt.mem_cache.memory_pool import KVWriteLoc
from sglang.srt.mem_cache.swa_memory_pool import SWAKVPool

from sglang_paste.errors import ConfigError
from sglang_paste.patches.cpu.attention_batch import (
    Request,
    Rows,
    encoder_requests,
    read,
    requests_of,
    rows_of,
    windowed,
)
from sglang_paste.patches.cpu.attention_math import attend, tree_mask
from sglang_paste.patches.cpu.exact import arm


class PasteCpuBackend(AttentionBackend):  # type: ignore[misc]
    """SGLang's attention on CPU tensors. Refuses, when it is built, what it would compute wrongly."""

    def __init__(self, model_runner: Any) -> None:
        super().__init__()
        _refuse_unsupported(model_runner)
        self.device = model_runner.device
        self.req_to_token_pool = model_runner.req_to_token_pool
        self.token_to_kv_pool = model_runner.token_to_kv_pool
        self.sliding_pool = isinstance(self.token_to_kv_pool, SWAKVPool) and self.token_to_kv_pool.swa_layer_nums > 0
        self.swa_out_cache_loc: torch.Tensor | None = None
        self.requests: list[Request] = []
        self.rows: Rows | None = None
        self.encoder_requests: list[Request] = []
        self.windowed_requests: dict[int, list[Request]] = {}
        self.masks: dict[tuple[int, int | None], torch.Tensor] = {}
        self.exact = arm(model_runner)

    def support_triton(self) -> bool:
        return False

    def init_forward_metadata(self, forward_batch: Any) -> None:
        """Lay out a batch once, for all layers."""
        self.requests, self.encoder_requests, self.windowed_requests, self.masks = [], [], {}, {}
        self.rows = None
        self.swa_out_cache_loc = None
        if forward_batch.forward_mode.is_idle():
            return
        if self.sliding_pool and forward_batch.out_cache_loc is not None:
            self.swa_out_cache_loc = self.token_to_kv_pool.translate_loc_from_full_to_swa(forward_batch.out_cache_loc)
        req_to_token = self.req_to_token_pool.req_to_token
        self.requests = requests_of(forward_batch, req_to_token)
        mode = forward_batch.forward_mode
        if self.exact and self.exact.single_queries and (mode.is_decode() or mode.is_target_verify()):
            self.rows = rows_of(self.requests)
        if forward_batch.encoder_lens is not None:
            self.encoder_requests = encoder_requests(self.requests, forward_batch, req_to_token)

    def forward_extend(
        self,
        q: torch.Tensor,
        k: torch.Tensor | None,
        v: torch.Tensor | None,
        layer: RadixAttention,
        forward_batch: Any,
        save_kv_cache: bool = True,
        **extra: Any,
    ) -> torch.Tensor:
        """`q` [tokens, heads x dim]; writes `k` and `v` to the pool first; returns [tokens, heads x value dim]."""
        _refuse_extra(extra)
        if save_kv_cache and k is not None and v is not None:
            self._save(k, v, layer, forward_batch)
        query = q.reshape(-1, layer.tp_q_head_num, layer.qk_head_dim)
        pool = self.token_to_kv_pool
        keys, values = pool.get_key_buffer(layer.layer_id), pool.get_value_buffer(layer.layer_id)
        causal = not layer.is_cross_attention and layer.attn_type != AttentionType.ENCODER_ONLY
        window = layer.sliding_window_size if causal and layer.sliding_window_size > -1 else None
        out = self._attend(self._requests(layer, window), query, keys, values, layer.scaling, causal, window)
        return out.reshape(-1, layer.tp_q_head_num * layer.v_head_dim)

    def attend_causal(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """`query` [tokens, heads, dim] over the pool's buffers, for a layer that is neither windowed nor crossed."""
        return self._attend(self.requests, query, keys, values, scale, True, None)

    def _attend(
        self,
        requests: list[Request],
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        scale: float,
        causal: bool,
        window: int | None,
    ) -> torch.Tensor:
        if self.rows and self.exact and self.exact.single_queries and requests is self.requests and causal:
            single = self.exact.single_queries
            if single.serves(query, keys, values, scale):
                return single.attend(query, keys, values, self.rows, scale)
        parts = [
            attend(
                query[request.rows],
                read(keys, request.slots, query.dtype),
                read(values, request.slots, query.dtype),
                scale,
                causal=causal,
                window=window,
                mask=self._mask(index, request, window, query.dtype),
            )
            for index, request in enumerate(requests)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    forward_decode = forward_extend

    def _save(self, k: torch.Tensor, v: torch.Tensor, layer: RadixAttention, forward_batch: Any) -> None:
        loc = forward_batch.encoder_out_cache_loc if layer.is_cross_attention else forward_batch.out_cache_loc
        self.token_to_kv_pool.set_kv_buffer(layer, KVWriteLoc(loc, self.swa_out_cache_loc), k, v)

    def _requests(self, layer: RadixAttention, window: int | None) -> list[Request]:
        if layer.is_cross_attention:
            return self.encoder_requests
        if window is None:
            return self.requests
        if window not in self.windowed_requests:
            translate = self.token_to_kv_pool.translate_loc_from_full_to_swa if self.sliding_pool else _as_is
            self.windowed_requests[window] = windowed(self.requests, window, translate)
        return self.windowed_requests[window]

    def _mask(self, index: int, request: Request, window: int | None, dtype: torch.dtype) -> torch.Tensor | None:
        if request.tree is None:
            return None
        if (index, window) not in self.masks:
            keys = _count(request) - request.tree.shape[0]
            self.masks[index, window] = tree_mask(request.tree, keys, window, dtype)
        return self.masks[index, window]


def _count(request: Request) -> int:
    slots = request.slots
    return len(range(slots.start, slots.stop)) if isinstance(slots, slice) else int(slots.numel())


def _as_is(slots: torch.Tensor) -> torch.Tensor:
    return slots


def _refuse_extra(extra: dict[str, Any]) -> None:
    given = sorted(name for name, value in extra.items() if value is not None)
    if given:
        raise ConfigError(
            f"Attention backend paste_cpu does not compute {', '.join(given)}, which this model's layers pass; "
            "choose another --attention-backend."
        )


def _refuse_unsupported(model_runner: Any) -> None:
    def refuse(what: str) -> None:
        raise ConfigError(f"Attention backend paste_cpu cannot serve {what}; choose another --attention-backend.")

    if str(model_runner.device) != "cpu":
        refuse(f"device {model_runner.device!r}, only 'cpu'")
    if model_runner.use_mla_backend:
        refuse("multi-head latent attention (MLA)")
    for name, layer in model_runner.model.named_modules():
        if not isinstance(layer, RadixAttention):
            continue
        if layer.logit_cap:
            refuse(f"a logit cap ({layer.logit_cap} in layer {name})")
        if layer.attn_type == AttentionType.DECODER_BIDIRECTIONAL:
            refuse(f"bidirectional attention in a decoder (layer {name})")
