"""Copies between the table of cache slots (`req_to_token`, [requests, pool_len]), lists of slots, and the cache."""

import ctypes
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from torch import Tensor


def assign_req_to_token_pool_cpu(
    req_pool_indices: Tensor,
    req_to_token: Tensor,
    start_offset: Tensor,
    end_offset: Tensor,
    out_cache_loc: Tensor,
    pool_len: int,
) -> None:
    """Write consecutive pieces of `out_cache_loc` to columns start..end of each request's row."""
    for row, start, end, at in _spans(req_pool_indices, start_offset, end_offset, req_to_token, out_cache_loc):
        req_to_token[row, start:end] = out_cache_loc[at : at + end - start]


def assign_extend_cache_locs_cpu(
    req_pool_indices: Tensor,
    req_to_token: Tensor,
    start_offset: Tensor,
    end_offset: Tensor,
    out_cache_loc: Tensor,
    pool_len: int,
) -> None:
    """Read columns start..end of each request's row into consecutive pieces of `out_cache_loc`."""
    for row, start, end, at in _spans(req_pool_indices, start_offset, end_offset, req_to_token, out_cache_loc):
        out_cache_loc[at : at + end - start] = req_to_token[row, start:end]


def assign_draft_cache_locs_contiguous_cpu(
    req_pool_indices: Tensor,
    req_to_token: Tensor,
    seq_lens: Tensor,
    out_cache_loc: Tensor,
    pool_len: int,
    topk: int,
    speculative_num_steps: int,
) -> None:
    """Read the `topk * speculative_num_steps` slots after each request's length into consecutive pieces."""
    ends = seq_lens + topk * speculative_num_steps
    assign_extend_cache_locs_cpu(req_pool_indices, req_to_token, seq_lens, ends, out_cache_loc.view(-1), pool_len)


def copy_all_layer_kv_cache_cpu(data_ptrs: Tensor, strides: Tensor, tgt_loc: Tensor, src_loc: Tensor) -> None:
    """In every buffer copy the rows `src_loc` to `tgt_loc`, all reads before all writes.

    `data_ptrs` are raw addresses and a row is `strides` bytes, dense; the buffers are disjoint, so a location that
    reaches into the next buffer is refused with IndexError before anything is written.
    """
    moved = tgt_loc != src_loc
    target, source = tgt_loc[moved].numpy(), src_loc[moved].numpy()
    if not target.size:
        return
    rows = int(max(target.max(), source.max())) + 1
    pointers, widths = data_ptrs.tolist(), strides.tolist()
    _check_rows(pointers, widths, int(min(target.min(), source.min())), rows)
    for pointer, width in zip(pointers, widths, strict=True):
        buffer = np.frombuffer((ctypes.c_uint8 * (rows * width)).from_address(pointer), np.uint8).reshape(rows, width)
        buffer[target] = buffer[source]


def _check_rows(pointers: list[int], widths: list[int], lowest: int, rows: int) -> None:
    buffers = sorted(zip(pointers, widths, strict=True))
    if lowest < 0 or buffers[0][0] <= 0 or min(widths) <= 0:
        raise IndexError(f"cache location {lowest} or a buffer of {len(buffers)} is not valid")
    for (pointer, width), (following, _) in pairwise(buffers):
        if pointer + rows * width > following:
            raise IndexError(f"cache location {rows - 1} is past the end: {(following - pointer) // width} rows fit")


def _spans(
    rows: Tensor, starts: Tensor, ends: Tensor, table: Tensor, flat: Tensor
) -> Iterator[tuple[int, int, int, int]]:
    """Per request: its row, its first and last column, and where its piece begins in the flat list."""
    spans = list(zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True))
    height, width = table.shape
    if any(not (0 <= row < height and 0 <= start <= end <= width) for row, start, end in spans):
        raise IndexError(f"a span of {spans} lies outside the {height} x {width} table of cache slots")
    if (total := sum(end - start for _, start, end in spans)) > flat.numel():
        raise IndexError(f"{total} cache slots are asked for and the list has {flat.numel()}")
    at = 0
    for row, start, end in spans:
        yield row, start, end, at
        at += end - start
