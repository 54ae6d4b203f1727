"""`draft_pack` on a CPU, for the whole batch at once.

A source adds to the trie what it does not share with an earlier one, so how far each two of them agree says
everything: which nodes exist, where they stand, and who descends from whom.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from sglang_paste.kernels.draft_pack.types import Pack, Shape


def draft_pack(
    roots: Tensor, drafts: Tensor, counts: Tensor, seq_lens: Tensor, limits: Tensor, width: int, shape: Shape, out: Pack
) -> None:
    batch, sources, draft = drafts.shape
    grid = _grid(width, sources, draft)
    usable = torch.where(drafts < 0, grid.step, counts.clamp(0, draft)[:, :, None]).amin(2)
    if shape == "chain":
        usable = usable * ((usable > 0).cumsum(1).eq(1) & (usable > 0))
    shared = torch.minimum(usable[:, :, None], usable[:, None, :])
    differs = drafts[:, :, None] != drafts[:, None, :]
    shared = torch.minimum(shared, torch.where(differs, grid.step, draft).amin(3))

    known = torch.where(grid.earlier, shared, 0).amax(1)
    end = (usable - known).cumsum(1) + 1
    owner = (grid.node >= end[:, :, None]).sum(1)
    used = (owner < sources) & (grid.node <= limits[:, None])
    used[:, 0] = False
    owner = owner.clamp(max=sources - 1)
    depth = grid.node - (end - usable).gather(1, owner)

    agree = shared.gather(1, owner[:, :, None].expand(-1, -1, sources))
    agree = agree.gather(2, owner[:, None, :].expand(-1, width, -1)).mT
    above = (depth[:, None, :] <= depth[:, :, None]) & (agree > depth[:, None, :]) & used[:, :, None] & used[:, None, :]
    above[:, :, 0] = used
    ancestors = above & grid.below
    parent = torch.where(ancestors, grid.node, -1).amax(2)
    child = torch.where(ancestors, grid.node[:, None], width).amin(1)
    siblings = (parent[:, :, None] == parent[:, None, :]) & grid.below & (parent >= 0)[:, None, :]
    sibling = torch.where(siblings, grid.node[:, None], width).amin(1)
    tokens = drafts.flatten(1).gather(1, torch.where(used, owner * draft + depth, 0))

    out.tokens.view(batch, width)[:] = torch.where(used, tokens, 0)
    out.tokens.view(batch, width)[:, 0] = roots
    out.positions.view(batch, width)[:] = torch.where(used, depth + 1, 0) + seq_lens[:, None]
    mask = out.mask.view(batch, width, width)
    torch.logical_or(ancestors, grid.itself, out=mask)
    out.retrieve_index.view(-1)[:] = torch.arange(batch * width)
    out.retrieve_next_token[:] = torch.where(child < width, child, -1)
    out.retrieve_next_sibling[:] = torch.where(sibling < width, sibling, -1)
    out.source[:] = torch.where(used, owner, -1)
    if out.full_mask is not None:
        _widen(mask, seq_lens.tolist(), out.full_mask)


def _widen(mask: Tensor, lengths: list[int], full: Tensor) -> None:
    width, at = mask.shape[1], 0
    for row, length in enumerate(lengths):
        piece = full[at : at + width * (length + width)].view(width, length + width)
        piece[:, :length], piece[:, length:] = True, mask[row]
        at += piece.numel()


class Grid(NamedTuple):
    node: Tensor
    step: Tensor
    earlier: Tensor
    below: Tensor
    itself: Tensor


@lru_cache(maxsize=32)
def _grid(width: int, sources: int, draft: int) -> Grid:
    node, source = torch.arange(width), torch.arange(sources)
    below = node[:, None] > node
    return Grid(node, torch.arange(draft), source[:, None] < source, below, torch.eye(width, dtype=torch.bool))
