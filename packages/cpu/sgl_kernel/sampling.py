"""The hash behind sampling with a seed."""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Words = npt.NDArray[np.uint32]


def murmur_hash32_cpu(seed: Tensor, positions: Tensor, col_indices: Tensor) -> Tensor:
    """MurmurHash3 (32 bits) of seed (8 bytes), position and column (4 each): uint32, [rows, columns]."""
    seeds = seed.numpy().astype(np.uint64)
    state = _mix(np.zeros(len(seeds), np.uint32), seeds.astype(np.uint32))
    state = _mix(state, (seeds >> np.uint64(32)).astype(np.uint32))
    state = _mix(state, positions.numpy().astype(np.uint32))
    state = _mix(state[:, None], col_indices.numpy().astype(np.uint32)[None, :]) ^ np.uint32(16)
    state = (state ^ (state >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    state = (state ^ (state >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return torch.from_numpy(state ^ (state >> np.uint32(16)))


def _mix(state: Words, block: Words) -> Words:
    block = _rotate(block * np.uint32(0xCC9E2D51), 15) * np.uint32(0x1B873593)
    return _rotate(state ^ block, 13) * np.uint32(5) + np.uint32(0xE6546B64)


def _rotate(value: Words, bits: int) -> Words:
    return (value << np.uint32(bits)) | (value >> np.uint32(32 - bits))


_library = torch.library.Library("sgl_kernel", "FRAGMENT")
_library.define("murmur_hash32_cpu(Tensor seed, Tensor positions, Tensor col_indices) -> Tensor")
_library.impl("murmur_hash32_cpu", murmur_hash32_cpu, "CPU")
