"""Decoding of Llama models in one compiled pass over the weights, in place of several hundred small torch calls.

The loaded model's objects are armed, no class is touched, and what was armed gives way to the original whenever the
batch, the backend or the model is not one the compiled code was written for.
"""

import ctypes
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from sglang.srt.layers.logits_processor import LogitsProcessor
from sglang.srt.layers.radix_attention import AttentionType
from sglang.srt.layers.rotary_embedding.base import RotaryEmbedding
from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool
from sglang.srt.model_executor.forward_context import get_attn_backend, has_forward_context
from sglang.srt.models.llama import LlamaForCausalLM
from sglang.srt.runtime_context import get_lora, get_parallel

from sglang_paste.errors import ConfigError
from sglang_paste.patches.cpu.attention_batch import Request
from sglang_paste.patches.cpu.compiled import load_library

logger = logging.getLogger(__name__)

MOST_ROWS = 64
LANES = 32
LARGEST_HEAD = 256

Pointer = ctypes.c_void_p


class _Layer(ctypes.Structure):
    _fields_ = [
        (name, Pointer) for name in ("input_norm", "qkv", "output", "post_norm", "gate_up", "down", "keys", "values")
    ]


class _Model(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("hidden", "inner", "heads", "kv_heads", "dim", "layers")),
        ("epsilon", ctypes.c_float),
        ("scale", ctypes.c_float),
        *((name, Pointer) for name in ("embedding", "final_norm", "rope", "layer")),
    ]


class _Request(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("first", "count", "keys")),
        ("slots", Pointer),
        ("tree", Pointer),
    ]


@dataclass(frozen=True, slots=True)
class Weights:
    """The tensors of one layer, in the order of the compiled structure."""

    tensors: tuple[torch.Tensor, ...]

    @classmethod
    def of(cls, layer: Any, pool: Any) -> "Weights":
        index = layer.self_attn.attn.layer_id
        return cls(
            (
                layer.input_layernorm.weight,
                layer.self_attn.qkv_proj.weight,
                layer.self_attn.o_proj.weight,
                layer.post_attention_layernorm.weight,
                layer.mlp.gate_up_proj.weight,
                layer.mlp.down_proj.weight,
                pool.get_key_buffer(index),
                pool.get_value_buffer(index),
            )
        )


def arm(model_runner: Any, backend: Any) -> bool:
    """Let `backend` decode this runner's model with the compiled code; False, with the reason logged, when it can't."""
    reason = None if wanted() else "SGLANG_PASTE_DECODE is not compiled"
    reason = reason or why_not(model_runner)
    if reason is not None:
        logger.info("Decoding stays with torch: %s.", reason)
        return False
    library = load_library()
    if library is None:
        return False
    decoder = FastDecoder(model_runner, backend, library)
    model = model_runner.model
    model.model.forward = decoder.replacing_layers(model.model.forward)
    model.logits_processor._compute_lm_head = decoder.replacing_head(model.logits_processor._compute_lm_head)
    logger.info("Decoding runs compiled, with %d thread(s).", decoder.threads)
    return True


def wanted() -> bool:
    """Does the operator prefer speed to torch's own bits, with which paste_cpu equals torch_native to the last one?"""
    choice = os.environ.get("SGLANG_PASTE_DECODE", "torch")
    if choice not in ("compiled", "torch"):
        raise ConfigError(f"SGLANG_PASTE_DECODE must be compiled or torch, not {choice!r}; set one of them.")
    return choice == "compiled"


def why_not(model_runner: Any) -> str | None:
    """What about the model or the server the compiled code was not written for; None when it was."""
    model, pool = model_runner.model, model_runner.token_to_kv_pool
    if type(model) is not LlamaForCausalLM:
        return f"the model is a {type(model).__name__}, not a LlamaForCausalLM"
    parallel = get_parallel()
    if parallel.tp_size != 1 or parallel.pp_size != 1:
        return "the model is split over several processes"
    if type(pool) is not MHATokenToKVPool or pool.use_hnd or pool.is_quantized_kv_cache:
        return f"the KV pool is a {type(pool).__name__} of another layout"
    if get_lora().enable_lora:
        return "LoRA is enabled"
    if model.model.layers_to_capture or model.capture_aux_hidden_states:
        return "hidden states of layers are captured"
    if type(model.logits_processor) is not LogitsProcessor or model.logits_processor.use_fp32_lm_head:
        return "the logits are computed in a way of their own"
    layers = list(model.model.layers)
    return _odd_tensor(model, layers, pool) or _odd_layer(layers)


def _odd_tensor(model: Any, layers: list[Any], pool: Any) -> str | None:
    named = dict(model.named_parameters())
    named |= {
        f"pool of layer {i}": tensor for i, layer in enumerate(layers) for tensor in Weights.of(layer, pool).tensors
    }
    for name, tensor in named.items():
        if name.endswith(".bias"):
            return f"{name} exists"
        if tensor.dtype != torch.bfloat16 or not tensor.is_contiguous():
            return f"{name} is not dense bfloat16"
        if tensor.shape[-1] % LANES:
            return f"{name} has rows of {tensor.shape[-1]}, not a multiple of {LANES}"
    return None


def _odd_layer(layers: list[Any]) -> str | None:
    first = layers[0].self_attn
    for index, layer in enumerate(layers):
        attention, rope = layer.self_attn, layer.self_attn.rotary_emb
        plain = attention.attn.attn_type == AttentionType.DECODER and attention.attn.sliding_window_size <= -1
        if not plain or attention.attn.scaling != first.attn.scaling or attention.head_dim > LARGEST_HEAD:
            return f"layer {index} attends in a way of its own"
        if rope is not first.rotary_emb or not rope.is_neox_style or rope.rotary_dim != rope.head_size:
            return f"layer {index} rotates in a way of its own"
        if type(rope).forward_native is not RotaryEmbedding.forward_native:
            return f"layer {index} rotates by {type(rope).__name__}"
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            if norm.variance_size_override is not None or norm.cast_x_before_out_mul or norm.fp32_residual:
                return f"layer {index} norms in a way of its own"
    return None


class FastDecoder:
    """The compiled model of one runner. Keeps what it points to alive, and checks that it is still in place."""

    def __init__(self, model_runner: Any, backend: Any, library: ctypes.CDLL) -> None:
        self.backend = backend
        self.library = library
        self.threads = decode_threads(torch.get_num_threads())
        model, attention = model_runner.model, model_runner.model.model.layers[0].self_attn
        pool = model_runner.token_to_kv_pool
        self.pool = pool
        self.rope = attention.rotary_emb.cos_sin_cache.to(torch.bfloat16).contiguous()
        self.weights = [
            model.model.embed_tokens.weight,
            model.model.norm.weight,
            self.rope,
            *(tensor for layer in model.model.layers for tensor in Weights.of(layer, pool).tensors),
        ]
        self.addresses = _addresses(self.weights)
        embedding, final_norm, rope, *rest = self.addresses
        width = len(_Layer._fields_)
        count = len(model.model.layers)
        self.layers = (_Layer * count)(*(_Layer(*rest[i : i + width]) for i in range(0, count * width, width)))
        self.hidden = model.config.hidden_size
        self.model = _Model(
            self.hidden,
            model.config.intermediate_size,
            attention.num_heads,
            attention.num_kv_heads,
            attention.head_dim,
            count,
            model.model.norm.variance_epsilon,
            attention.attn.scaling,
            embedding,
            final_norm,
            rope,
            ctypes.addressof(self.layers),
        )
        self.scratch = torch.empty(0)
        library.paste_scratch.restype = ctypes.c_int64
        library.paste_decode.restype = library.paste_linear.restype = None

    def replacing_layers(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """The forward of the model's stack: embedding, layers and final norm."""

        def forward(
            input_ids: Any, positions: Any, batch: Any, input_embeds: Any = None, *rest: Any, **more: Any
        ) -> Any:
            if input_embeds is None and self._serves(batch, input_ids, positions):
                return self.decode(input_ids, positions, batch.out_cache_loc, self.backend.requests)
            return original(input_ids, positions, batch, input_embeds, *rest, **more)

        return forward

    def replacing_head(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """The product of hidden states with the vocabulary."""

        def compute(hidden_states: Any, lm_head: Any, embedding_bias: Any = None, **more: Any) -> Any:
            rows = hidden_states.shape[0]
            weight = getattr(lm_head, "weight", None)
            plain = (
                weight is not None and weight.dtype == hidden_states.dtype == torch.bfloat16 and embedding_bias is None
            )
            if plain and 0 < rows <= MOST_ROWS and self._active() and not hasattr(lm_head, "set_lora"):
                return self.linear(hidden_states.contiguous(), weight)
            return original(hidden_states, lm_head, embedding_bias, **more)

        return compute

    def decode(self, tokens: Any, positions: Any, slots: Any, requests: Sequence[Request]) -> Any:
        """Hidden states [rows, hidden] of `tokens` [rows]; their keys and values are written to `slots` [rows]."""
        rows = tokens.shape[0]
        tokens, positions, slots = (tensor.to(torch.int64).contiguous() for tensor in (tokens, positions, slots))
        kept = [_laid_out(request) for request in requests]
        described = (_Request * len(kept))(*(_described(*each) for each in kept))
        scratch = self._scratch(self.library.paste_scratch(ctypes.byref(self.model), ctypes.c_int64(rows)))
        out = torch.empty(rows, self.hidden, dtype=torch.bfloat16)
        self.library.paste_decode(
            ctypes.byref(self.model),
            ctypes.c_int64(rows),
            *(Pointer(tensor.data_ptr()) for tensor in (tokens, positions, slots)),
            ctypes.c_int64(len(kept)),
            described,
            Pointer(scratch.data_ptr()),
            Pointer(out.data_ptr()),
            ctypes.c_int(self.threads),
        )
        return out

    def linear(self, rows: Any, weight: Any) -> Any:
        """`rows` [n, size] times `weight` [outs, size], rounded to bfloat16 as torch does."""
        count, size = rows.shape
        outs = weight.shape[0]
        scratch = self._scratch(4 * count * (size + outs))
        out = torch.empty(count, outs, dtype=torch.bfloat16)
        self.library.paste_linear(
            Pointer(rows.data_ptr()),
            ctypes.c_int64(count),
            ctypes.c_int64(size),
            Pointer(weight.data_ptr()),
            ctypes.c_int64(outs),
            Pointer(scratch.data_ptr()),
            Pointer(out.data_ptr()),
            ctypes.c_int(self.threads),
        )
        return out

    def _active(self) -> bool:
        return has_forward_context() and get_attn_backend() is self.backend

    def _serves(self, batch: Any, tokens: Any, positions: Any) -> bool:
        mode = batch.forward_mode
        return (
            (mode.is_decode() or mode.is_target_verify())
            and self._active()
            and 0 < tokens.shape[0] <= MOST_ROWS
            and batch.encoder_lens is None
            and self.pool.layer_transfer_counter is None
            and int(positions.max()) < self.rope.shape[0]
            and _addresses(self.weights) == self.addresses
        )

    def _scratch(self, size: int) -> Any:
        if self.scratch.numel() * 4 < size:
            self.scratch = torch.empty((size + 3) // 4, dtype=torch.float32)
        return self.scratch


def decode_threads(threads: int) -> int:
    """One core reads memory nearly as fast as two, and a pair that shares them waits for the slower."""
    return 1 if threads <= 2 else threads


def _laid_out(request: Request) -> tuple[Request, Any, Any]:
    slots = request.slots
    kept = (
        torch.arange(slots.start, slots.stop, dtype=torch.int32) if isinstance(slots, slice) else slots.to(torch.int32)
    )
    tree = None if request.tree is None else request.tree.to(torch.uint8).contiguous()
    return request, kept.contiguous(), tree


def _described(request: Request, slots: Any, tree: Any) -> _Request:
    rows = request.rows
    pointer = None if tree is None else tree.data_ptr()
    return _Request(rows.start, rows.stop - rows.start, slots.numel(), slots.data_ptr(), pointer)


def _addresses(tensors: Sequence[Any]) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]
