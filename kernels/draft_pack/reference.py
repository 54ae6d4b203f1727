"""The truth about `draft_pack`: a trie for each request, slowly."""

from dataclasses import dataclass

import torch
from torch import Tensor

from sglang_paste.kernels.draft_pack.types import Pack, Shape


@dataclass
class Node:
    """A token of a trie, the place of its parent, and which source drafted it first."""

    token: int
    parent: int
    source: int


def draft_pack(
    roots: Tensor, drafts: Tensor, counts: Tensor, seq_lens: Tensor, limits: Tensor, width: int, shape: Shape, out: Pack
) -> None:
    rows: list[Tensor] = []
    for row, root in enumerate(roots.tolist()):
        offered = [_usable(*pair) for pair in zip(drafts[row].tolist(), counts[row].tolist(), strict=True)]
        trie = _trie(root, offered, min(int(limits[row]), width - 1), shape)
        size, length = len(trie), int(seq_lens[row])
        unused = width - size
        mask = torch.eye(width, dtype=torch.bool)
        child, sibling = [-1] * width, [-1] * width
        for place in range(1, size):
            mask[place] |= mask[trie[place].parent]
        for place in range(size - 1, 0, -1):
            parent = trie[place].parent
            child[parent], sibling[place] = place, child[parent]
        here = slice(row * width, (row + 1) * width)
        depths = (mask.sum(1) - 1).tolist()
        out.tokens[here] = torch.tensor([node.token for node in trie] + [0] * unused)
        out.positions[here] = torch.tensor([length + depth for depth in depths])
        out.mask.view(-1, width, width)[row] = mask
        out.retrieve_index[row] = torch.arange(row * width, (row + 1) * width)
        out.retrieve_next_token[row] = torch.tensor(child)
        out.retrieve_next_sibling[row] = torch.tensor(sibling)
        out.source[row] = torch.tensor([node.source for node in trie] + [-1] * unused)
        rows.append(torch.cat([torch.ones(width, length, dtype=torch.bool), mask], 1).flatten())
    if out.full_mask is not None:
        rest = len(out.full_mask) - sum(map(len, rows))
        out.full_mask.copy_(torch.cat([*rows, torch.ones(rest, dtype=torch.bool)]))


def _usable(tokens: list[int], count: int) -> list[int]:
    stop = next((at for at, token in enumerate(tokens) if token < 0), len(tokens))
    return tokens[: max(0, min(count, stop))]


def _trie(root: int, offered: list[list[int]], limit: int, shape: Shape) -> list[Node]:
    if shape == "chain":
        first = next((source for source, tokens in enumerate(offered) if tokens), 0)
        offered = [tokens if source == first else [] for source, tokens in enumerate(offered)]
    nodes = [Node(root, -1, -1)]
    for source, tokens in enumerate(offered):
        at = 0
        for token in tokens:
            known = [place for place, node in enumerate(nodes) if node.parent == at and node.token == token]
            if not known and len(nodes) > limit:
                break
            if not known:
                nodes.append(Node(token, at, source))
            at = known[0] if known else len(nodes) - 1
    return nodes
