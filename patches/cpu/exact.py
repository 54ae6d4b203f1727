"""A loaded model's linear layers, norms, gates and rotations through compiled kernels, with the bits of torch's own.

Nothing is believed: each kind and shape of module is compared with what it replaces, on this machine, before it is
replaced. Objects of the model are armed, no class is touched; a call that a kernel was not written for goes to the
original.
"""

import logging
import os
import time
from collections import Counter
from typing import Any

import torch
from sglang.srt.layers.radix_attention import RadixAttention
from sglang.srt.utils import cpu_has_amx_support
from torch.nn.functional import silu

from sglang_paste.errors import ConfigError
from sglang_paste.patches.cpu import llama
from sglang_paste.patches.cpu.attention_kernel import SingleQueries, rows_alike
from sglang_paste.patches.cpu.compiled import ATTENTION, BUILDS, ROWWISE, load_library
from sglang_paste.patches.cpu.exact_modules import PAIRED, Part, parts_of
from sglang_paste.patches.cpu.kernels import Kernels, every_value

logger = logging.getLogger(__name__)

CHOICE = "SGLANG_PASTE_CPU_KERNELS"
_OWNER = "_sglang_paste_exact"


class Exact:
    """The replaced parts of one model. `arm` and `disarm` can be called again."""

    def __init__(self, parts: list[Part], single_queries: SingleQueries | None = None) -> None:
        self.single_queries = single_queries
        self._parts = parts
        self._before: list[tuple[Part, bool, Any]] = []

    @property
    def parts(self) -> list[Part]:
        return list(self._parts)

    @property
    def armed(self) -> bool:
        return bool(self._before)

    def arm(self) -> None:
        if self.armed:
            return
        for part in self._parts:
            self._before.append((part, part.name in vars(part.owner), getattr(part.owner, part.name)))
            setattr(part.owner, part.name, part.replacement)

    def disarm(self) -> None:
        for part, own, before in self._before:
            if own:
                setattr(part.owner, part.name, before)
            else:
                delattr(part.owner, part.name)
        self._before = []


def arm(model_runner: Any) -> Exact | None:
    """Arm this runner's model, once; None, with the reason in the log, when all of it stays with torch."""
    model = model_runner.model
    known: Exact | None = vars(model).get(_OWNER)
    if known is not None:
        known.arm()
        return known
    reason = why_not(model_runner)
    capability = torch.backends.cpu.get_cpu_capability()
    library = None if reason else load_library(BUILDS[capability])
    if library is None:
        if reason:
            logger.info("CPU kernels stay torch's: %s.", reason)
        return None
    start = time.perf_counter()
    kernels = Kernels(library, capability)
    parts, refused = parts_of(model, kernels)
    odd = llama.why_not(model_runner, {id(part.owner) for part in parts if part.kind != PAIRED})
    if odd is None:
        stack = llama.LlamaStack(model_runner, kernels, silu(every_value()))
        parts.append(Part("decoder stack", model.model, "forward", stack.replacing(model.model.forward)))
    exact = Exact(parts, _single_queries(model, capability, refused))
    exact.arm()
    setattr(model, _OWNER, exact)
    kinds = Counter(part.kind for part in parts)
    paired = kinds.pop(PAIRED, 0)
    logger.info(
        "CPU kernels: %s compiled, with torch's bits (compared in %.2f s); left to torch: %s.",
        ", ".join(f"{count} {kind}" for kind, count in kinds.items()) or "nothing",
        time.perf_counter() - start,
        ", ".join([*refused, *([f"{paired} {PAIRED}"] if paired else [])]) or "nothing",
    )
    return exact


def _single_queries(model: Any, capability: str, refused: list[str]) -> SingleQueries | None:
    """The compiled attention, if any of the model's shapes has torch's bits; the others are added to `refused`. Where
    torch itself gives a draft other bits than the same token decoded alone, bits of its own, the same for both."""
    layers = [layer for layer in model.modules() if isinstance(layer, RadixAttention)]
    shapes = {(layer.tp_q_head_num, layer.tp_k_head_num, layer.qk_head_dim, layer.scaling) for layer in layers}
    rowwise = capability in ROWWISE and not all(rows_alike(*shape) for shape in shapes)
    build = ROWWISE[capability] if rowwise else ATTENTION.get(capability)
    library = load_library(build) if build else None
    if library is None:
        return None
    single = SingleQueries(library, own_bits=rowwise)
    odd = [shape for shape in shapes if not single.gives_the_bits(*shape)]
    refused += [f"attention of {heads} heads of {dim}" for heads, _, dim, _ in odd]
    return single if len(odd) < len(shapes) else None


def why_not(model_runner: Any) -> str | None:
    """Why no part of this runner's model may be replaced; None when parts may."""
    choice = os.environ.get(CHOICE, "auto")
    if choice not in ("auto", "torch"):
        raise ConfigError(f"{CHOICE} must be auto or torch, not {choice!r}; set one of them.")
    if choice == "torch":
        return f"{CHOICE} is torch"
    if torch.backends.cpu.get_cpu_capability() not in BUILDS:
        return "torch uses neither AVX2 nor AVX-512 on this processor"
    if cpu_has_amx_support():
        return "this processor has AMX, for which SGLang has kernels of its own"
    if getattr(getattr(model_runner, "server_args", None), "enable_torch_compile", False):
        return "torch.compile is enabled, which cannot trace them"
    return None
