"""The hash behind sampling with a seed."""

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


def murmur_hash32_cpu(seed: Tensor, positions: Tensor, col_indices: Tensor) -> Tensor:
    """MurmurHash3 (32 bits) of seed (8 bytes), position and column (4 each): uint32, [rows, columns]."""
    low, high = (seed.view(torch.int64) & _MASK), (seed.view(torch.int64) >> 32) & _MASK
    state = _mix(_mix(_mix(torch.zeros_like(low), low), high), positions.to(torch.int64) & _MASK)
    state = _mix(state[:, None], (col_indices.to(torch.int64) & _MASK)[None, :]) ^ 16
    state = ((state ^ (state >> 16)) * 0x85EBCA6B) & _MASK
    state = ((state ^ (state >> 13)) * 0xC2B2AE35) & _MASK
    return (state ^ (state >> 16)).to(torch.uint32)


def _mix(state: Tensor, block: Tensor) -> Tensor:
    # int64 products may wrap: their low 32 bits, all that is kept, are right anyway
    block = _rotate((block * 0xCC9E2D51) & _MASK, 15)
    mixed = _rotate(state ^ ((block * 0x1B873593) & _MASK), 13)
    return (mixed * 5 + 0xE6546B64) & _MASK


def _rotate(value: Tensor, bits: int) -> Tensor:
    return ((value << bits) | (value >> (32 - bits))) & _MASK


_library = torch.library.Library("sgl_kernel", "FRAGMENT")
_library.define("murmur_hash32_cpu(Tensor seed, Tensor positions, Tensor col_indices) -> Tensor")
_library.impl("murmur_hash32_cpu", murmur_hash32_cpu, "CPU")
