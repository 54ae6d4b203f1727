"""The compiled kernels on tensors. What each needs of its tensors is the caller's to see to."""

import ctypes
import threading
from typing import Any

import torch

LANES = 16

_POINTER, _COUNT = ctypes.c_void_p, ctypes.c_int64
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "paste_scratch": (_COUNT, [_COUNT, _COUNT]),
    "paste_linear": (
        None,
        [_POINTER, _COUNT, _COUNT, _POINTER, _POINTER, _COUNT, _COUNT, _POINTER, _POINTER],
    ),
    "paste_norm": (
        None,
        [_POINTER, _POINTER, _COUNT, _COUNT, _POINTER, ctypes.c_float, _POINTER, _POINTER, _POINTER],
    ),
    "paste_gate": (None, [_POINTER, _COUNT, _COUNT, _POINTER, _POINTER]),
    "paste_rotate": (
        ctypes.c_int,
        [_POINTER, _COUNT, _COUNT, _COUNT, _COUNT, _POINTER, _POINTER, _COUNT, _POINTER],
    ),
}


class Kernels:
    """Functions of dense bfloat16 tensors; several threads may call them at once.

    `library` holds the kernels for torch's CPU `capability`.
    """

    def __init__(self, library: ctypes.CDLL, capability: str) -> None:
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        self._library = library
        self._wide = capability == "AVX512"
        self._local = threading.local()

    def takes(self, size: int) -> bool:
        """Whether `linear` can multiply inputs of this size."""
        return size % 32 == 0 and block_of(size) % 2 == 0 if self._wide else size % 16 == 0

    def serves(self, rows: int, size: int) -> bool:
        """Whether `linear` adds up this many rows in torch's order, if it takes their size.

        With AVX-512, oneDNN divides several rows among its threads and adds up some of them in another order then.
        """
        if not self._wide:
            return rows > 0
        return size % 64 == 0 if rows == 1 else rows > 1 and torch.get_num_threads() == 1

    def linear(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """`x` [..., size] times `weight` [outs, size], plus `bias` [outs]: [..., outs]."""
        outs, size = weight.shape
        rows = x.numel() // size
        if out is None:
            out = torch.empty((*x.shape[:-1], outs), dtype=torch.bfloat16)
        self._library.paste_linear(
            x.data_ptr(),
            rows,
            size,
            weight.data_ptr(),
            None if bias is None else bias.data_ptr(),
            outs,
            block_of(size),
            self._scratch(self._library.paste_scratch(rows, size)),
            out.data_ptr(),
        )
        return out

    def norm(
        self,
        x: torch.Tensor,
        residual: torch.Tensor | None,
        weight: torch.Tensor,
        epsilon: float,
        out: torch.Tensor | None = None,
        kept: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The root-mean-square norm of `x` [..., size] plus `residual`, and that sum where there is a residual.

        The sum may be kept in the residual itself.
        """
        size = weight.shape[0]
        if out is None:
            out = torch.empty_like(x)
        if kept is None and residual is not None:
            kept = torch.empty_like(x)
        self._library.paste_norm(
            x.data_ptr(),
            None if residual is None else residual.data_ptr(),
            x.numel() // size,
            size,
            weight.data_ptr(),
            epsilon,
            self._scratch(4 * size),
            None if kept is None else kept.data_ptr(),
            out.data_ptr(),
        )
        return out, kept

    def gate(self, x: torch.Tensor, table: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """The first half of `x` [..., 2 x size] through `table`, a value for each bfloat16, times the second half."""
        size = x.shape[-1] // 2
        if out is None:
            out = torch.empty((*x.shape[:-1], size), dtype=torch.bfloat16)
        self._library.paste_gate(x.data_ptr(), x.numel() // (2 * size), size, table.data_ptr(), out.data_ptr())
        return out

    def rotate(
        self,
        x: torch.Tensor,
        dim: int,
        positions: torch.Tensor,
        table: torch.Tensor,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor | None:
        """Heads of `dim` in `x` [rows, heads x dim] turned by `positions` [rows]; None when `table` is too short."""
        rows, width = x.shape
        if out is None:
            out = torch.empty(rows, width, dtype=torch.bfloat16)
        known = self._library.paste_rotate(
            x.data_ptr(),
            rows,
            x.stride(0),
            width // dim,
            dim,
            positions.data_ptr(),
            table.data_ptr(),
            table.shape[0],
            out.data_ptr(),
        )
        return out if known else None

    def _scratch(self, size: int) -> int:
        """The address of at least `size` bytes that no other thread uses."""
        buffer: torch.Tensor | None = getattr(self._local, "buffer", None)
        if buffer is None or buffer.numel() < size:
            buffer = self._local.buffer = torch.empty(size, dtype=torch.uint8)
        return int(buffer.data_ptr())


def block_of(size: int) -> int:
    """How many inputs oneDNN's gemm for bfloat16 with AVX-512 adds up before it adds that sum to the output."""
    if size <= 384:
        return size
    return (size + 1) // 2 if size < 1536 else 768


def every_value() -> torch.Tensor:
    """Each bfloat16 once, in the order of its bits."""
    return torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
