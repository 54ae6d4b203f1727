"""Which parts of a model the compiled kernels can replace, each checked against the original on values of its own."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from sglang.srt.layers.activation import SiluAndMul
from sglang.srt.layers.layernorm import RMSNorm
from sglang.srt.layers.logits_processor import LogitsProcessor
from sglang.srt.layers.quantization.unquant import UnquantizedEmbeddingMethod, UnquantizedLinearMethod
from sglang.srt.layers.rotary_embedding.base import RotaryEmbedding
from torch.nn.functional import linear, silu

from sglang_paste.patches.cpu.kernels import LANES, Kernels, every_value

Call = Callable[..., Any]
Pair = tuple[torch.Tensor | None, torch.Tensor]

ROWS = (1, 2, 17)
AMONG = (3, 4, 5, 8, 9, 17, 48)
LARGE = 8192
PAIRED = "linear layers that take a single row for two"


@dataclass(frozen=True, slots=True)
class Part:
    """An attribute of an object in the model, and what takes its place."""

    kind: str
    owner: Any
    name: str
    replacement: Any


def parts_of(model: torch.nn.Module, kernels: Kernels) -> tuple[list[Part], list[str]]:
    """The parts that can be replaced, and in words those of the same kinds that can't."""
    checks = Checks(kernels)
    parts, refused = [], set()
    for module in model.modules():
        part = _part(module, checks)
        if isinstance(part, str):
            refused.add(part)
        elif part is not None:
            parts.append(part)
    head = getattr(model, "lm_head", None)
    if head is not None and _plain_head(head) and not checks.linear(head.weight, None, _matmul):
        checks.pairs(head.weight, None, _matmul)
        refused.add(f"the product with the vocabulary of {list(head.weight.shape)}")
    return parts, sorted(refused)


def _part(module: Any, checks: "Checks") -> Part | str | None:
    kernels = checks.kernels
    if type(getattr(module, "quant_method", None)) is UnquantizedLinearMethod:
        bias = getattr(module, "bias", None)
        if not checks.linear(module.weight, bias, linear):
            if checks.pairs(module.weight, bias, linear):
                return Part(PAIRED, module, "quant_method", PairedLinearMethod())
            return f"linear layers of {list(module.weight.shape)} {module.weight.dtype}"
        return Part("linear layers", module, "quant_method", ExactLinearMethod(kernels))
    if type(module) is LogitsProcessor:
        return Part("logits", module, "_compute_lm_head", _logits(module, checks))
    if type(module) is RMSNorm:
        original = _original(module)
        if not checks.norm(module, original):
            return f"norms of {module.hidden_size}"
        return Part("norms", module, "_forward_method", _norm(module, original, kernels))
    if type(module) is SiluAndMul:
        original = _original(module)
        if not checks.gate(original):
            return "SiLU gates"
        return Part("gates", module, "_forward_method", _gate(original, checks.table, kernels))
    if isinstance(module, RotaryEmbedding):
        original = _original(module)
        if not checks.rotation(module, original):
            return f"rotations by {type(module).__name__}"
        return Part("rotations", module, "_forward_method", _rotation(module, original, kernels))
    return None


class Checks:
    """Compares kernels with originals, once for each kind and shape."""

    def __init__(self, kernels: Kernels) -> None:
        self.kernels = kernels
        self.table = silu(every_value())
        self._known: dict[Any, bool] = {}

    def linear(self, weight: torch.Tensor, bias: torch.Tensor | None, product: Call) -> bool:
        outs, size = weight.shape
        if not _dense(weight) or (bias is not None and not _dense(bias)) or not self.kernels.takes(size):
            return False
        key = ("linear", outs, size, bias is not None, product)
        return self._once(key, lambda: _alike(self._products(outs, size, bias is not None, product)))

    def pairs(self, weight: torch.Tensor, bias: torch.Tensor | None, product: Call) -> bool:
        """Whether torch adds up a single row in another order than one among others, and all of these in the same."""
        if weight.dim() != 2 or weight.dtype is not torch.bfloat16:
            return False
        outs, size = weight.shape
        key = ("pairs", outs, size, bias is not None, product)
        return self._once(key, lambda: self._pairs(outs, size, bias is not None, product))

    def norm(self, module: Any, original: Call) -> bool:
        weight, size = module.weight, module.hidden_size
        changed = module.variance_size_override is not None or module.cast_x_before_out_mul or module.fp32_residual
        if changed or module.override_orig_dtype is not None or not _dense(weight) or size % LANES:
            return False
        key = ("norm", size, module.variance_epsilon)
        return self._once(key, lambda: _alike(self._norms(weight, module.variance_epsilon, original)))

    def gate(self, original: Call) -> bool:
        return self._once("gate", lambda: _alike(self._gates(original)))

    def rotation(self, module: Any, original: Call) -> bool:
        dim, table = module.head_size, module.cos_sin_cache
        plain = type(module).forward_native is RotaryEmbedding.forward_native and module.is_neox_style
        if not plain or module.rotary_dim != dim or dim % (2 * LANES) or not _dense(table):
            return False
        return self._once(("rotation", id(module)), lambda: _alike(self._rotations(dim, table, original)))

    def _once(self, key: Any, check: Callable[[], bool]) -> bool:
        if key not in self._known:
            with torch.no_grad():
                self._known[key] = check()
        return self._known[key]

    def _pairs(self, outs: int, size: int, biased: bool, product: Call) -> bool:
        random = torch.Generator().manual_seed(size)
        bias = torch.randn(outs, generator=random).bfloat16() if biased else None
        x, weight = _cancelling(AMONG[-1], outs, size, random)
        pair = product(x[:2], weight, bias)
        if same(product(x[:1], weight, bias), pair[:1]):
            return False  # nothing to pair
        return all(same(pair, product(x[:rows], weight, bias)[:2]) for rows in AMONG)

    def _products(self, outs: int, size: int, biased: bool, product: Call) -> Iterator[Pair]:
        random = torch.Generator().manual_seed(size)
        bias = torch.randn(outs, generator=random).bfloat16() if biased else None
        # With a whole vocabulary one comparison of each way to multiply is enough, and all there is time for.
        large = outs > LARGE
        for cancel in (True,) if large else (True, False):
            x, weight = (_cancelling if cancel else _random)(ROWS[-1], outs, size, random)
            for rows in ROWS[:2] if large else ROWS:
                if self.kernels.serves(rows, size):
                    yield self.kernels.linear(x[:rows], weight, bias), product(x[:rows], weight, bias)

    def _norms(self, weight: torch.Tensor, epsilon: float, original: Call) -> Iterator[Pair]:
        random = torch.Generator().manual_seed(weight.shape[0])
        for rows in ROWS:
            x, residual = (torch.randn(rows, weight.shape[0], generator=random).bfloat16() for _ in range(2))
            yield self.kernels.norm(x, None, weight, epsilon)[0], original(x)
            yield from zip(self.kernels.norm(x, residual, weight, epsilon), original(x, residual), strict=True)

    def _gates(self, original: Call) -> Iterator[Pair]:
        values = every_value().view(32, -1)
        x = torch.cat([values, torch.randn(values.shape, generator=torch.Generator().manual_seed(1)).bfloat16()], 1)
        yield self.kernels.gate(x, self.table), original(x)

    def _rotations(self, dim: int, table: torch.Tensor, original: Call) -> Iterator[Pair]:
        random = torch.Generator().manual_seed(dim)
        for rows in ROWS:
            positions = torch.randint(0, table.shape[0], (rows,), generator=random)
            both = torch.randn(rows, 3 * dim, generator=random).bfloat16()
            parts = both.split([2 * dim, dim], dim=1)
            turned = [self.kernels.rotate(part, dim, positions, table) for part in parts]
            yield from zip(turned, original(positions, *parts), strict=True)


class ExactLinearMethod(UnquantizedLinearMethod):  # type: ignore[misc]
    """The same product; what the kernel was not written for goes to SGLang's own method."""

    def __init__(self, kernels: Kernels) -> None:
        super().__init__()
        self._kernels = kernels

    def apply(self, layer: Any, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        weight = layer.weight
        if _serves(self._kernels, x) and _dense(weight) and (bias is None or _dense(bias)):
            return self._kernels.linear(x, weight, bias)
        return super().apply(layer, x, bias)


class PairedLinearMethod(UnquantizedLinearMethod):  # type: ignore[misc]
    """torch's own product, in which a row that comes alone has the bits that it has among others: where processors have
    bfloat16 instructions, oneDNN adds up more than 1,024 inputs in other blocks for a single row than for several."""

    def apply(self, layer: Any, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        if x.dim() == 2 and x.shape[0] == 1:
            return super().apply(layer, x.repeat(2, 1), bias)[:1]
        return super().apply(layer, x, bias)


def _random(rows: int, outs: int, size: int, random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(rows, size, generator=random).bfloat16()
    some = torch.randn(64, size, generator=random).bfloat16()
    return x, some.repeat(-(-outs // 64), 1)[:outs]


def _cancelling(rows: int, outs: int, size: int, random: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums of nothing but rounding errors, which show the order of the additions."""
    x, some = _random(rows, 64, size, random)
    half = size // 2
    x[:, half : 2 * half], some[:, half : 2 * half] = x[:, :half], -some[:, :half]
    order = torch.randperm(size, generator=random)
    return x[:, order], some[:, order].repeat(-(-outs // 64), 1)[:outs]


def _logits(module: Any, checks: Checks) -> Call:
    original = module._compute_lm_head

    def compute(hidden_states: Any, lm_head: Any, embedding_bias: Any = None, **more: Any) -> Any:
        if _plain_head(lm_head) and embedding_bias is None and not module.use_fp32_lm_head:
            weight = lm_head.weight
            if _serves(checks.kernels, hidden_states) and checks.linear(weight, None, _matmul):
                return checks.kernels.linear(hidden_states, weight)
            alone = hidden_states.dim() == 2 and hidden_states.shape[0] == 1
            if alone and checks.pairs(weight, None, _matmul):
                return original(hidden_states.repeat(2, 1), lm_head, embedding_bias, **more)[:1]
        return original(hidden_states, lm_head, embedding_bias, **more)

    return compute


def _norm(module: Any, original: Call, kernels: Kernels) -> Call:
    def forward(x: Any, residual: Any = None, post_residual_addition: Any = None, quant_linear: Any = None) -> Any:
        weight = module.weight
        usual = post_residual_addition is None and quant_linear is None and _dense(x) and _dense(weight)
        if not usual or x.shape[-1] != weight.shape[0]:
            return original(x, residual, post_residual_addition, quant_linear)
        if residual is None:
            return kernels.norm(x, None, weight, module.variance_epsilon)[0]
        if not _dense(residual) or residual.shape != x.shape:
            return original(x, residual)
        return kernels.norm(x, residual, weight, module.variance_epsilon)

    return forward


def _gate(original: Call, table: torch.Tensor, kernels: Kernels) -> Call:
    def forward(x: Any) -> Any:
        return kernels.gate(x, table) if _dense(x) and x.shape[-1] % (2 * LANES) == 0 else original(x)

    return forward


def _rotation(module: Any, original: Call, kernels: Kernels) -> Call:
    dim = module.head_size

    def forward(positions: Any, query: Any, key: Any, offsets: Any = None, fused_set_kv_buffer_arg: Any = None) -> Any:
        table = module.cos_sin_cache
        usual = offsets is None and fused_set_kv_buffer_arg is None and not hasattr(module, "sin_cos_cache")
        if usual and _dense(table) and _positions(positions) and _heads(query, dim) and _heads(key, dim):
            turned = [kernels.rotate(each, dim, positions, table) for each in (query, key)]
            if turned[0] is not None:
                return turned[0], turned[1]
        return original(positions, query, key, offsets, fused_set_kv_buffer_arg)

    return forward


def _alike(pairs: Iterator[Pair]) -> bool:
    return all(same(ours, theirs) for ours, theirs in pairs)


def same(ours: torch.Tensor | None, theirs: torch.Tensor) -> bool:
    """Equal in shape, type and bits, but for the bits of a NaN."""
    if ours is None or ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return False
    equal = ours.view(torch.int16) == theirs.contiguous().view(torch.int16)
    return bool((equal | (ours.isnan() & theirs.isnan())).all())


def _plain_head(head: Any) -> bool:
    plain = type(getattr(head, "quant_method", None)) is UnquantizedEmbeddingMethod
    return plain and not hasattr(head, "set_lora")


def _matmul(x: torch.Tensor, weight: torch.Tensor, bias: None) -> torch.Tensor:
    return torch.matmul(x, weight.T)


def _original(module: Any) -> Call:
    original: Call = module._forward_method or module._resolve_forward_method()
    return original


def _dense(tensor: torch.Tensor) -> bool:
    return tensor.dtype is torch.bfloat16 and tensor.is_contiguous()


def _serves(kernels: Kernels, x: torch.Tensor) -> bool:
    return x.dim() == 2 and _dense(x) and kernels.serves(x.shape[0], x.shape[1])


def _positions(positions: torch.Tensor) -> bool:
    return positions.dim() == 1 and positions.dtype is torch.int64 and positions.is_contiguous()


def _heads(x: torch.Tensor, dim: int) -> bool:
    return x.dim() == 2 and x.dtype is torch.bfloat16 and x.stride(1) == 1 and x.shape[1] % dim == 0
