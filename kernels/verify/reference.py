"""Rejection sampling over trees of drafts, in plain torch (Leviathan et al. 2023; Miao et al. 2024 for trees).

A draft is a point, so its token x is kept with the probability p(x) that the target gives it. If it is not, p without x
is left for the next sibling, and after the last one the token is drawn from what is left: the result has the
distribution p, whatever was drafted. A result depends on its arguments alone: the same coins, the same tokens.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

FEW = 1024  # likeliest tokens, which nearly always hold all that top-p keeps, and are found sooner than all are sorted


def verify(
    logits: Tensor,
    candidates: Tensor,
    retrieve_index: Tensor,
    retrieve_next_token: Tensor,
    retrieve_next_sibling: Tensor,
    temperatures: Tensor,
    top_ks: Tensor,
    top_ps: Tensor,
    min_ps: Tensor,
    coins: Tensor,
    final_coins: Tensor,
    predicts: Tensor,
    accept_index: Tensor,
    accept_token_num: Tensor,
) -> None:
    """Sample along each request's tree; probabilities are computed for the nodes that are reached, and no others.

    logits: [batch * width, vocab], with penalties, bias and grammar applied
    candidates, retrieve_index, retrieve_next_token, retrieve_next_sibling: [batch, width], as `draft_pack` makes them
    temperatures, top_ks, top_ps, min_ps: [batch] or [batch, 1], as SGLang's sampling info has them: a greedy request
        has top_k 1, and gets the argmax whatever the coins
    coins [batch, width], final_coins [batch]: uniform in [0, 1), those of SGLang's `_verify_coins`

    Written in place, the rest is left as it is: `predicts` [batch * width] at each kept place the token after it,
    `accept_index` [batch, depth] the kept places, root first, `accept_token_num` [batch] how many without the root.
    """
    width = candidates.shape[1]
    each = (temperatures, top_ks, top_ps, min_ps)
    settings = list(zip(*(setting.reshape(-1).tolist() for setting in each), strict=True))

    def probs(row: int, node: int) -> Tensor:
        return target_probs(logits[row * width + node], *settings[row])

    tree = (candidates, retrieve_index, retrieve_next_token, retrieve_next_sibling)
    _sample(_trees(*tree, coins, final_coins), probs, 1.0, 1.0, predicts, accept_index, accept_token_num)


def tree_speculative_sampling_target_only(
    predicts: Tensor,
    accept_index: Tensor,
    accept_token_num: Tensor,
    candidates: Tensor,
    retrive_index: Tensor,
    retrive_next_token: Tensor,
    retrive_next_sibling: Tensor,
    uniform_samples: Tensor,
    uniform_samples_for_final_sampling: Tensor,
    target_probs: Tensor,
    draft_probs: Tensor | None = None,
    threshold_single: float = 1.0,
    threshold_acc: float = 1.0,
    deterministic: bool = True,
) -> None:
    """`verify` with the arguments of SGLang's kernel of this name, from `target_probs` [batch, width, vocab].

    `draft_probs` is of no use to a draft that is a point. A threshold below 1 gives up exactness as it does in SGLang:
    a token at least as likely as `threshold_single` is always kept, and coins are stretched by `threshold_acc`.
    """
    tree = (candidates, retrive_index, retrive_next_token, retrive_next_sibling)
    trees = _trees(*tree, uniform_samples, uniform_samples_for_final_sampling)
    thresholds = (threshold_single, threshold_acc)

    def probs(row: int, node: int) -> Tensor:
        return target_probs[row, node]

    _sample(trees, probs, *thresholds, predicts, accept_index, accept_token_num)


def target_probs(logits: Tensor, temperature: float, top_k: int, top_p: float, min_p: float) -> Tensor:
    """The weights [vocab] that SGLang's sampler draws from, without speculation, for one position; they need not sum
    to 1. Top-p counts the mass before a token over all tokens; min-p is a share of the most likely one."""
    vocab = logits.shape[-1]
    if top_k == 1:
        return torch.zeros(vocab).index_fill_(0, logits.argmax(), 1.0)
    probs = torch.softmax(logits.float() / temperature, -1)
    if top_k >= vocab and top_p >= 1 and min_p <= 0:
        return probs
    most = min(top_k, vocab)
    ranked, ids, kept = _kept_tokens(probs, min(most, FEW), top_p, min_p)
    if kept[-1] and len(ids) < most:
        ranked, ids, kept = _kept_tokens(probs, most, top_p, min_p)
    return torch.zeros(vocab).scatter_(0, ids, torch.where(kept, ranked, 0.0))


def _kept_tokens(probs: Tensor, most: int, top_p: float, min_p: float) -> tuple[Tensor, Tensor, Tensor]:
    """The likeliest tokens with their probabilities, and which are kept: none after the first that is not."""
    ranked, ids = probs.topk(most) if most < len(probs) else probs.sort(descending=True)
    before = ranked.cumsum(-1) - ranked
    return ranked, ids, (before <= top_p) & (ranked >= ranked[0] * min_p)


class Tree(NamedTuple):
    """One request's draft; a coin for each node, and one for the token after the last that is kept."""

    tokens: list[int]
    places: list[int]
    children: list[int]
    siblings: list[int]
    coins: list[float]
    final_coin: float

    def below(self, node: int) -> Iterator[int]:
        child = self.children[node]
        while child >= 0:
            yield child
            child = self.siblings[child]


def _trees(*tensors: Tensor) -> list[Tree]:
    return [Tree(*row) for row in zip(*(tensor.tolist() for tensor in tensors), strict=True)]


def _sample(
    trees: list[Tree],
    probs: Callable[[int, int], Tensor],
    threshold_single: float,
    threshold_acc: float,
    predicts: Tensor,
    accept_index: Tensor,
    accept_token_num: Tensor,
) -> None:
    for row, tree in enumerate(trees):
        node, kept = 0, [0]
        while True:
            left = probs(row, node).double()
            full = len(kept) == accept_index.shape[1]
            child = None if full else _kept_child(tree, node, left, threshold_single, threshold_acc)
            if child is None:
                break
            predicts[tree.places[node]] = tree.tokens[child]
            kept.append(child)
            node = child
        predicts[tree.places[node]] = _draw(left, tree.final_coin)
        accept_index[row, : len(kept)] = torch.tensor([tree.places[node] for node in kept])
        accept_token_num[row] = len(kept) - 1


def _kept_child(tree: Tree, node: int, left: Tensor, threshold_single: float, threshold_acc: float) -> int | None:
    """The first child whose coin lets it pass; what did not is taken out of `left`."""
    for child in tree.below(node):
        weight = float(left[tree.tokens[child]])
        mass = float(left.sum())
        if weight > 0 and (tree.coins[child] * threshold_acc * mass < weight or weight >= threshold_single * mass):
            return child
        left[tree.tokens[child]] = 0
    return None


def _draw(weights: Tensor, coin: float) -> int:
    """The first token whose cumulated weight passes the coin's share of all."""
    total = weights.cumsum(0)
    return int(torch.searchsorted(total, coin * total[-1:], right=True))
