"""`draft_pack` on a GPU, in one launch for the batch."""

import triton
import triton.language as tl
from torch import Tensor

from sglang_paste.kernels.draft_pack.types import Pack, Shape

PIECE = 1024
WIDENERS = 16


def draft_pack(
    roots: Tensor, drafts: Tensor, counts: Tensor, seq_lens: Tensor, limits: Tensor, width: int, shape: Shape, out: Pack
) -> None:
    batch, sources, draft = drafts.shape
    if not batch:
        return
    full = out.mask if out.full_mask is None else out.full_mask
    _pack[(batch, 1 if out.full_mask is None else WIDENERS)](
        roots,
        roots.stride(0),
        drafts,
        *drafts.stride(),
        counts,
        *counts.stride(),
        seq_lens,
        seq_lens.stride(0),
        limits,
        limits.stride(0),
        *out[:-1],
        full,
        draft,
        width,
        sources,
        shape == "chain",
        out.full_mask is not None,
        triton.next_power_of_2(batch),
        triton.next_power_of_2(draft),
        triton.next_power_of_2(width),
        PIECE,
        num_warps=4 if width <= 32 else 8,
    )


@triton.jit
def _usable(drafts, drafts_step, count, draft, DRAFT: tl.constexpr):
    """How many tokens of one source's draft are real."""
    step = tl.arange(0, DRAFT)
    token = tl.load(drafts + step * drafts_step, mask=step < draft, other=-1)
    stop = tl.min(tl.where(token < 0, step, draft), axis=0)
    return tl.maximum(tl.minimum(count, stop), 0)


@triton.jit
def _pack(
    roots,
    roots_step,
    drafts,
    drafts_row,
    drafts_source,
    drafts_step,
    counts,
    counts_row,
    counts_source,
    seq_lens,
    seq_lens_step,
    limits,
    limits_step,
    tokens,
    positions,
    mask,
    retrieve_index,
    retrieve_next_token,
    retrieve_next_sibling,
    source,
    full_mask,
    draft,
    width,
    SOURCES: tl.constexpr,
    CHAIN: tl.constexpr,
    FULL: tl.constexpr,
    BATCH: tl.constexpr,
    DRAFT: tl.constexpr,
    WIDTH: tl.constexpr,
    PIECE: tl.constexpr,
):
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    drafts += row * drafts_row
    counts += row * counts_row
    length = tl.load(seq_lens + row * seq_lens_step).to(tl.int64)
    limit = tl.load(limits + row * limits_step).to(tl.int32)
    node, step = tl.arange(0, WIDTH), tl.arange(0, DRAFT)

    # which source a node is of and its depth below the root: a source adds what no earlier one begins with
    owner = tl.full((WIDTH,), SOURCES, tl.int32)
    depth = tl.zeros((WIDTH,), tl.int32)
    size = 1
    chained = 0
    for each in tl.static_range(SOURCES):
        own = drafts + each * drafts_source
        usable = _usable(own, drafts_step, tl.load(counts + each * counts_source).to(tl.int32), draft, DRAFT)
        token = tl.load(own + step * drafts_step, mask=step < usable, other=-1)
        known = 0
        for other in tl.static_range(each):
            earlier = drafts + other * drafts_source
            offered = tl.load(counts + other * counts_source).to(tl.int32)
            offered = _usable(earlier, drafts_step, offered, draft, DRAFT)
            theirs = tl.load(earlier + step * drafts_step, mask=step < offered, other=-2)
            known = tl.maximum(known, tl.min(tl.where(token == theirs, DRAFT, step), axis=0))
        known = tl.minimum(known, usable)
        if CHAIN:
            known = tl.where(chained > 0, usable, known)
            chained = tl.maximum(chained, usable)
        mine = (node >= size) & (node < size + usable - known)
        owner = tl.where(mine, each, owner)
        depth = tl.where(mine, node - size + known, depth)
        size += usable - known
    used = (node > 0) & (node < size) & (node <= limit) & (node < width)

    # a node's path to the root, and whether another source's nodes lie on it
    path = drafts + owner.to(tl.int64)[:, None] * drafts_source + step[None, :] * drafts_step
    paths = tl.load(path, mask=used[:, None] & (step[None, :] <= depth[:, None]), other=-1)
    above = ((node == 0)[None, :] & used[:, None]).to(tl.int1)
    for each in tl.static_range(SOURCES):
        offered = _usable(
            drafts + each * drafts_source,
            drafts_step,
            tl.load(counts + each * counts_source).to(tl.int32),
            draft,
            DRAFT,
        )
        theirs = tl.load(drafts + each * drafts_source + step * drafts_step, mask=step < offered, other=-2)
        agree = tl.min(tl.where(paths == theirs[None, :], DRAFT, step[None, :]), axis=1)
        above = above | ((used & (owner == each))[None, :] & (agree[:, None] > depth[None, :]))
    above = above & used[:, None]

    itself = node[:, None] == node[None, :]
    square = row * width * width + node[:, None] * width + node[None, :]
    inside = (node[:, None] < width) & (node[None, :] < width)
    if FULL:
        rows = tl.arange(0, BATCH)
        before = tl.load(seq_lens + rows * seq_lens_step, mask=rows < row, other=0).to(tl.int64)
        start = width * (tl.sum(before, axis=0) + row * width)
        wide = start + node.to(tl.int64)[:, None] * (length + width)
        if part == 0:
            tl.store(full_mask + wide + length + node[None, :], above | itself, mask=inside)
        column = tl.arange(0, PIECE)
        ones = tl.full((PIECE,), 1, tl.int1)
        for at in range(width):
            line = full_mask + start + at * (length + width)
            for piece in range(part * PIECE, length, tl.num_programs(1) * PIECE):
                tl.store(line + piece + column, ones, mask=piece + column < length)
    if part == 0:
        ancestors = above & (node[None, :] < node[:, None])
        parent = tl.max(tl.where(ancestors, node[None, :], -1), axis=1)
        child = tl.min(tl.where(ancestors, node[:, None], WIDTH), axis=0)
        later = (node[:, None] > node[None, :]) & (parent[:, None] == parent[None, :]) & (parent >= 0)[None, :]
        sibling = tl.min(tl.where(later, node[:, None], WIDTH), axis=0)
        drafted = tl.load(drafts + owner.to(tl.int64) * drafts_source + depth * drafts_step, mask=used, other=0).to(
            tl.int64
        )
        drafted = tl.where(node == 0, tl.load(roots + row * roots_step).to(tl.int64), drafted)
        flat, kept = row * width + node, node < width
        tl.store(mask + square, above | itself, mask=inside)
        tl.store(tokens + flat, drafted, mask=kept)
        tl.store(positions + flat, length + tl.where(used, depth + 1, 0), mask=kept)
        tl.store(retrieve_index + flat, flat, mask=kept)
        tl.store(retrieve_next_token + flat, tl.where(child < WIDTH, child, -1), mask=kept)
        tl.store(retrieve_next_sibling + flat, tl.where(sibling < WIDTH, sibling, -1), mask=kept)
        tl.store(source + flat, tl.where(used, owner, -1), mask=kept)
