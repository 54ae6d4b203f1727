"""`draft_pack` on a GPU, in one launch for the batch, after the ones of a full mask."""

import triton
import triton.language as tl
from torch import Tensor

from sglang_paste.kernels.draft_pack.types import Pack, Shape


def draft_pack(
    roots: Tensor, drafts: Tensor, counts: Tensor, seq_lens: Tensor, limits: Tensor, width: int, shape: Shape, out: Pack
) -> None:
    batch, sources, draft = drafts.shape
    if not batch:
        return
    full = out.mask if out.full_mask is None else out.full_mask.fill_(True)
    _pack[(batch,)](
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
        num_warps=4 if width <= 32 else 8,
    )


@triton.jit
def _usable(drafts, drafts_source, drafts_step, counts, counts_source, source, draft, DRAFT: tl.constexpr):
    """How many tokens of one source's draft are real."""
    step = tl.arange(0, DRAFT)
    token = tl.load(drafts + source * drafts_source + step * drafts_step, mask=step < draft, other=-1)
    stop = tl.min(tl.where(token < 0, step, draft), axis=0)
    return tl.maximum(tl.minimum(tl.load(counts + source * counts_source).to(tl.int32), stop), 0)


@triton.jit
def _nodes(
    drafts,
    drafts_source,
    drafts_step,
    counts,
    counts_source,
    draft,
    SOURCES: tl.constexpr,
    CHAIN: tl.constexpr,
    DRAFT: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Each node's source and its depth below the root, and how many there are: a source adds what no earlier one
    begins with."""
    node, step = tl.arange(0, WIDTH), tl.arange(0, DRAFT)
    owner, depth = tl.full((WIDTH,), SOURCES, tl.int32), tl.zeros((WIDTH,), tl.int32)
    size = 1
    chained = 0
    for each in tl.static_range(SOURCES):
        usable = _usable(drafts, drafts_source, drafts_step, counts, counts_source, each, draft, DRAFT)
        token = tl.load(drafts + each * drafts_source + step * drafts_step, mask=step < usable, other=-1)
        known = 0
        for other in tl.static_range(each):
            offered = _usable(drafts, drafts_source, drafts_step, counts, counts_source, other, draft, DRAFT)
            theirs = tl.load(drafts + other * drafts_source + step * drafts_step, mask=step < offered, other=-2)
            known = tl.maximum(known, tl.min(tl.where(token == theirs, DRAFT, step), axis=0))
        known = tl.minimum(known, usable)
        if CHAIN:
            known = tl.where(chained > 0, usable, known)
            chained = tl.maximum(chained, usable)
        mine = (node >= size) & (node < size + usable - known)
        owner = tl.where(mine, each, owner)
        depth = tl.where(mine, node - size + known, depth)
        size += usable - known
    return owner, depth, size


@triton.jit
def _above(
    drafts,
    drafts_source,
    drafts_step,
    counts,
    counts_source,
    draft,
    owner,
    depth,
    used,
    SOURCES: tl.constexpr,
    DRAFT: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Which nodes lie on each node's path from the root, itself among them: those whose tokens it begins with."""
    node, step = tl.arange(0, WIDTH), tl.arange(0, DRAFT)
    path = drafts + owner.to(tl.int64)[:, None] * drafts_source + step[None, :] * drafts_step
    paths = tl.load(path, mask=used[:, None] & (step[None, :] <= depth[:, None]), other=-1)
    above = ((node == 0)[None, :] & used[:, None]).to(tl.int1)
    for each in tl.static_range(SOURCES):
        offered = _usable(drafts, drafts_source, drafts_step, counts, counts_source, each, draft, DRAFT)
        theirs = tl.load(drafts + each * drafts_source + step * drafts_step, mask=step < offered, other=-2)
        agree = tl.min(tl.where(paths == theirs[None, :], DRAFT, step[None, :]), axis=1)
        above = above | ((used & (owner == each))[None, :] & (agree[:, None] > depth[None, :]))
    return above & used[:, None]


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
):
    row = tl.program_id(0).to(tl.int64)
    drafts += row * drafts_row
    counts += row * counts_row
    length = tl.load(seq_lens + row * seq_lens_step).to(tl.int64)
    limit = tl.load(limits + row * limits_step).to(tl.int32)
    node = tl.arange(0, WIDTH)
    owner, depth, size = _nodes(
        drafts, drafts_source, drafts_step, counts, counts_source, draft, SOURCES, CHAIN, DRAFT, WIDTH
    )
    used = (node > 0) & (node < size) & (node <= limit) & (node < width)
    above = _above(
        drafts, drafts_source, drafts_step, counts, counts_source, draft, owner, depth, used, SOURCES, DRAFT, WIDTH
    )
    itself = node[:, None] == node[None, :]
    square = row * width * width + node[:, None] * width + node[None, :]
    inside = (node[:, None] < width) & (node[None, :] < width)
    if FULL:
        rows = tl.arange(0, BATCH)
        before = tl.load(seq_lens + rows * seq_lens_step, mask=rows < row, other=0).to(tl.int64)
        start = width * (tl.sum(before, axis=0) + row * width)
        wide = start + node.to(tl.int64)[:, None] * (length + width)
        tl.store(full_mask + wide + length + node[None, :], above | itself, mask=inside)
    ancestors = above & (node[None, :] < node[:, None])
    parent = tl.max(tl.where(ancestors, node[None, :], -1), axis=1)
    child = tl.min(tl.where(ancestors, node[:, None], WIDTH), axis=0)
    later = (node[:, None] > node[None, :]) & (parent[:, None] == parent[None, :]) & (parent >= 0)[None, :]
    sibling = tl.min(tl.where(later, node[:, None], WIDTH), axis=0)
    place = drafts + owner.to(tl.int64) * drafts_source + depth * drafts_step
    drafted = tl.load(place, mask=used, other=0).to(tl.int64)
    drafted = tl.where(node == 0, tl.load(roots + row * roots_step).to(tl.int64), drafted)
    flat, kept = row * width + node, node < width
    tl.store(mask + square, above | itself, mask=inside)
    tl.store(tokens + flat, drafted, mask=kept)
    tl.store(positions + flat, length + tl.where(used, depth + 1, 0), mask=kept)
    tl.store(retrieve_index + flat, flat, mask=kept)
    tl.store(retrieve_next_token + flat, tl.where(child < WIDTH, child, -1), mask=kept)
    tl.store(retrieve_next_sibling + flat, tl.where(sibling < WIDTH, sibling, -1), mask=kept)
    tl.store(source + flat, tl.where(used, owner, -1), mask=kept)
