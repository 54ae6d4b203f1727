"""Sampling over trees of drafts, in plain torch.

A draft is a point: rejection sampling keeps its token x with the probability p(x) of the target, and draws from the
rest of p where it is not kept (Leviathan et al. 2023; Miao et al. 2024 for trees). To sample from p, and to go on where
a child is what was sampled, keeps it as often. Then the tokens are also the very ones that are sampled without drafts
where a seed and a position decide what is sampled.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# The tokens [n] sampled after these nodes [n] of the flat batch, which are of these requests [n], this deep [n].
Sample = Callable[[Tensor, Tensor, Tensor], Tensor]


class Verified(NamedTuple):
    """What a step has come to; what is not said of is 0 in `tokens`."""

    tokens: Tensor  # [requests * width] int32: the token after each kept node
    counts: Tensor  # [requests] int32: how many come out of the step, the one after the last kept node among them
    kept: Tensor  # [requests, width] int32: the kept nodes' places in the flat batch, the root first, -1 behind them


def sample_tree(tokens: Tensor, children: Tensor, siblings: Tensor, sample: Sample) -> Verified:
    """Go down each request's tree, all requests at once: sample what comes after a node, and go on where a child of it
    is that token. Only the nodes that are reached are sampled from.

    tokens, children, siblings: [requests, width], as `draft_pack` makes them: the node's token, its first child and the
        next child of its parent, -1 for none
    """
    size, width = tokens.shape
    drafted, firsts, nexts = tokens.tolist(), children.tolist(), siblings.tolist()
    after = torch.zeros(size * width, dtype=torch.int32)
    kept = torch.full((size, width), -1, dtype=torch.int32)
    counts = torch.zeros(size, dtype=torch.int32)
    nodes = dict.fromkeys(range(size), 0)
    while nodes:
        places = torch.tensor([row * width + node for row, node in nodes.items()])
        rows = torch.tensor(list(nodes))
        sampled = sample(places, rows, counts[rows])
        kept[rows, counts[rows].long()] = places.int()
        counts[rows] += 1
        after[places] = sampled.int()
        steps = zip(list(nodes.items()), sampled.tolist(), strict=True)
        nodes = {
            row: child
            for (row, node), token in steps
            if (child := _child(node, token, drafted[row], firsts[row], nexts[row])) >= 0
        }
    return Verified(after, counts, kept)


def _child(node: int, token: int, tokens: list[int], children: list[int], siblings: list[int]) -> int:
    child = children[node]
    while child >= 0 and tokens[child] != token:
        child = siblings[child]
    return child
