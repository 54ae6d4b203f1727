"""A Llama's decoder layers as one straight line of kernel calls, for decoding, where SGLang's own calls cost as much
time as the work itself. What is computed is the same, kernel by kernel."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from sglang.srt.layers.radix_attention import AttentionType
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool
from sglang.srt.model_executor.forward_context import get_attn_backend, has_forward_context
from sglang.srt.models.llama import LlamaForCausalLM
from sglang.srt.runtime_context import get_lora, get_parallel
from torch.nn.functional import embedding

from sglang_paste.patches.cpu.kernels import Kernels


@runtime_checkable
class Attends(Protocol):
    """An attention backend that has laid out the batch."""

    def attend_causal(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float
    ) -> torch.Tensor: ...


def why_not(model_runner: Any, replaced: set[int]) -> str | None:
    """What about the model or the server a straight line would leave out; None when nothing.

    `replaced` has the ids of the modules whose kernels give the same bits.
    """
    model, pool = model_runner.model, model_runner.token_to_kv_pool
    if type(model) is not LlamaForCausalLM:
        return f"the model is a {type(model).__name__}, not a LlamaForCausalLM"
    parallel = get_parallel()
    if parallel.tp_size != 1 or parallel.pp_size != 1:
        return "the model is split over several processes"
    if type(pool) is not MHATokenToKVPool or pool.use_hnd or pool.dtype != torch.bfloat16:
        return f"the KV pool is a {type(pool).__name__} of another layout"
    if get_lora().enable_lora:
        return "LoRA is enabled"
    if model.model.layers_to_capture or model.capture_aux_hidden_states:
        return "hidden states of layers are captured"
    return next(
        (f"layer {i} {odd}" for i, layer in enumerate(model.model.layers) if (odd := _odd(layer, replaced))), None
    )


def _odd(layer: Any, replaced: set[int]) -> str | None:
    attention, mlp = layer.self_attn, layer.mlp
    norms = layer.input_layernorm, layer.post_attention_layernorm
    products = attention.qkv_proj, attention.o_proj, mlp.gate_up_proj, mlp.down_proj
    if any(id(module) not in replaced for module in (*norms, *products, mlp.act_fn, attention.rotary_emb)):
        return "has a part that stays with torch"
    if any(module.bias is not None for module in products):
        return "has a bias"
    if attention.attn.attn_type != AttentionType.DECODER or attention.attn.sliding_window_size > -1:
        return "attends in a way of its own"
    return None


class LlamaStack:
    """The decoder layers of one runner's model."""

    def __init__(self, model_runner: Any, kernels: Kernels, table: torch.Tensor) -> None:
        self._stack = model_runner.model.model
        self._pool = model_runner.token_to_kv_pool
        self._kernels = kernels
        self._table = table
        self._layers = list(self._stack.layers)
        products = self._layers[0].self_attn.qkv_proj, self._layers[0].self_attn.o_proj, self._layers[0].mlp.down_proj
        self._sizes = {product.weight.shape[1] for product in products}

    def replacing(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """The forward of the model's stack: embedding, layers and final norm."""

        def forward(
            input_ids: Any, positions: Any, batch: Any, input_embeds: Any = None, *rest: Any, **more: Any
        ) -> Any:
            backend = get_attn_backend() if has_forward_context() else None
            if input_embeds is None and isinstance(backend, Attends) and self._serves(batch, input_ids, positions):
                return self.decode(input_ids, positions.long().contiguous(), batch.out_cache_loc.long(), backend)
            return original(input_ids, positions, batch, input_embeds, *rest, **more)

        return forward

    def decode(self, tokens: Any, positions: Any, slots: Any, backend: Attends) -> Any:
        """Hidden states [rows, hidden] of `tokens` [rows]; their keys and values are written to `slots` [rows]."""
        kernels, table, rows = self._kernels, self._table, tokens.shape[0]
        first = self._layers[0].self_attn
        dim, width, pairs = first.head_dim, first.q_size, first.kv_size
        inner = self._layers[0].mlp.down_proj.weight.shape[1]
        residual = embedding(tokens, self._stack.embed_tokens.weight)
        added, normed = torch.empty_like(residual), torch.empty_like(residual)
        qkv, turned, gate_up, gated = (
            residual.new_empty(rows, size) for size in (width + 2 * pairs, width + pairs, 2 * inner, inner)
        )
        both = qkv[:, : width + pairs]
        query, key = (part.view(rows, -1, dim) for part in turned.split([width, pairs], dim=1))
        value = qkv[:, width + pairs :].view(rows, -1, dim)
        for index, layer in enumerate(self._layers):
            attention, mlp = layer.self_attn, layer.mlp
            self._norm(layer.input_layernorm, added if index else None, residual, normed)
            kernels.linear(normed, attention.qkv_proj.weight, out=qkv)
            kernels.rotate(both, dim, positions, attention.rotary_emb.cos_sin_cache, out=turned)
            keys, values = self._buffers(attention.attn.layer_id)
            keys.index_copy_(0, slots, key)
            values.index_copy_(0, slots, value)
            mixed = backend.attend_causal(query, keys, values, attention.attn.scaling).view(rows, width)
            kernels.linear(mixed, attention.o_proj.weight, out=added)
            self._norm(layer.post_attention_layernorm, added, residual, normed)
            kernels.linear(normed, mlp.gate_up_proj.weight, out=gate_up)
            kernels.gate(gate_up, table, out=gated)
            kernels.linear(gated, mlp.down_proj.weight, out=added)
        self._norm(self._stack.norm, added, residual, normed)
        return normed

    def _norm(self, module: Any, added: Any, residual: Any, out: Any) -> None:
        """`out` = the norm of `residual`, after `added` is added to it."""
        x, before = (residual, None) if added is None else (added, residual)
        self._kernels.norm(x, before, module.weight, module.variance_epsilon, out=out, kept=before)

    def _buffers(self, layer: int) -> tuple[Any, Any]:
        return self._pool.get_key_buffer(layer), self._pool.get_value_buffer(layer)

    def _serves(self, batch: Any, tokens: Any, positions: Any) -> bool:
        mode, rows = batch.forward_mode, tokens.shape[0]
        return (
            (mode.is_decode() or mode.is_target_verify())
            and all(self._kernels.serves(rows, size) for size in self._sizes)
            and batch.encoder_lens is None
            and self._pool.layer_transfer_counter is None
            and int(positions.max()) < self._layers[0].self_attn.rotary_emb.cos_sin_cache.shape[0]
        )
