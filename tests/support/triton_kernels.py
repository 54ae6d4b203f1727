"""SGLang's Triton kernels in the interpreter, each called with the arguments of its twin in the sgl_kernel stand-in.

The interpreter is chosen when Triton is imported, so this runs in a process of its own, see `Interpreter`.
"""

import multiprocessing
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from torch import Tensor

Arguments = list[Any]


class Interpreter:
    """A process in which Triton interprets; a call answers with its result and the arguments as they are after it."""

    def __init__(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, mp_context=spawn, initializer=_choose_interpreter)

    def call(self, name: str, arguments: Arguments) -> Arguments:
        return self._pool.submit(_call, name, arguments).result(timeout=100)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def _choose_interpreter() -> None:
    os.environ |= {"TRITON_INTERPRET": "1", "SGLANG_USE_CPU_ENGINE": "1"}
    warnings.simplefilter("ignore")


def _call(name: str, arguments: Arguments) -> Arguments:
    kernel: Callable[..., object] = globals()[name]
    return [kernel(*arguments), *arguments]


def assign_req_to_token_pool_cpu(rows: Tensor, *arguments: Any) -> None:
    from sglang.srt.mem_cache.allocation import assign_req_to_token_pool

    assign_req_to_token_pool[(len(rows),)](rows, *arguments, 8)


def assign_extend_cache_locs_cpu(rows: Tensor, *arguments: Any) -> None:
    from sglang.kernels.ops.speculative.cache_locs import assign_extend_cache_locs

    assign_extend_cache_locs[(len(rows),)](rows, *arguments, 8)


def assign_draft_cache_locs_contiguous_cpu(rows: Tensor, *arguments: Any) -> None:
    from sglang.kernels.ops.speculative.cache_locs import assign_draft_cache_locs_contiguous

    assign_draft_cache_locs_contiguous[(len(rows),)](rows, *arguments)


def copy_all_layer_kv_cache_cpu(*arguments: Tensor) -> None:
    from sglang.kernels.ops.kvcache.cache_move import copy_all_layer_kv_cache_tiled

    *buffers, target, source = arguments
    pointers = torch.tensor([buffer.data_ptr() for buffer in buffers], dtype=torch.uint64)
    strides = torch.tensor([buffer.shape[1] for buffer in buffers])
    grid = (len(buffers), 2)
    copy_all_layer_kv_cache_tiled[grid](pointers, strides, target, source, len(target), 8, BYTES_PER_TILE=128)


def murmur_hash32_cpu(seeds: Tensor, positions: Tensor, columns: Tensor) -> Tensor:
    from sglang.kernels.ops.sampling.murmur_hash import murmur_hash32_kernel

    out = torch.empty(len(seeds), len(columns), dtype=torch.uint32)
    grid = (len(seeds), -(-len(columns) // 1024))
    murmur_hash32_kernel[grid](seeds, positions, columns, out, *out.shape, BLOCK_SIZE=1024)
    return out


def reconstruct_indices_from_tree_mask(*arguments: Any) -> None:
    from sglang.kernels.ops.speculative.reconstruct_tree import reconstruct_indices_from_tree_mask_triton

    reconstruct_indices_from_tree_mask_triton(*arguments)


def verify_tree_greedy_cpu(*arguments: Any) -> None:
    from sglang.kernels.ops.speculative.spec_tree import verify_tree_greedy_triton

    verify_tree_greedy_triton(*arguments)


def build_tree_kernel_efficient_cpu(*arguments: Any) -> None:
    from sglang.kernels.ops.speculative.spec_tree import TreeMaskMode, sgl_build_tree_kernel_triton

    sgl_build_tree_kernel_triton(*arguments[:-1], TreeMaskMode(arguments[-1]))


def fill_bonus_tokens_cpu(tokens: Tensor, lengths: Tensor, *arguments: Any) -> None:
    from sglang.kernels.ops.speculative.eagle import fill_bonus_tokens

    fill_bonus_tokens[(len(lengths),)](tokens, lengths, *arguments)


def fill_accept_out_cache_loc_cpu(places: Tensor, *arguments: Any) -> None:
    from sglang.kernels.ops.speculative.eagle import fill_accept_out_cache_loc

    fill_accept_out_cache_loc[(len(places),)](places, *arguments, 16)


def rotate_input_ids_cpu(ids: Tensor, starts: Tensor, *arguments: Any) -> None:
    from sglang.kernels.ops.speculative.multi_layer_eagle import rotate_input_ids_kernel

    rotate_input_ids_kernel[(len(starts),)](ids, starts, *arguments, BLOCK_SIZE=8)
