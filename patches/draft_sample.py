"""Sampled requests on a CPU: SGLang verifies there by the likeliest token, whatever the temperature."""

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor

Verified: TypeAlias = tuple[Tensor, Tensor, Tensor]


def verifying(
    original: Callable[..., Verified], verify_input: Any, batch: Any, logits_output: Any, *rest: Any, **more: Any
) -> Verified:
    """Around `eagle_sample`: the original puts penalties, biases and grammars on the logits, and knows what to do on a
    GPU and for greedy requests."""
    verified = original(verify_input, batch, logits_output, *rest, **more)
    if batch.device != "cpu" or batch.sampling_info.is_all_greedy:
        return verified
    return sample_tree(verify_input, logits_output.next_token_logits, batch.sampling_info, batch.seq_lens)


def sample_tree(tree: Any, logits: Tensor, sampling: Any, lengths: Tensor) -> Verified:
    """Go down each request's tree: sample what comes after a node, and go on where a child of it is that token.

    So every token is sampled from the model's own distribution, and drafts change how many come at once and nothing
    else. Returns what `eagle_sample` does: the token after each node [nodes], how many come out of the step [requests],
    and the accepted nodes [requests, depth], -1 behind them.
    """
    size, width = len(lengths), tree.draft_token_num
    tokens = tree.draft_token.view(size, width).tolist()
    children, siblings = tree.retrieve_next_token.tolist(), tree.retrieve_next_sibling.tolist()
    predicted = torch.zeros(size * width, dtype=torch.int32)
    path = torch.full((size, width), -1, dtype=torch.int32)
    accepted = torch.zeros(size, dtype=torch.int32)
    nodes = dict.fromkeys(range(size), 0)
    while nodes:
        rows = torch.tensor([row * width + node for row, node in nodes.items()])
        which = torch.tensor(list(nodes))
        path[which, accepted[which]] = rows.int()
        accepted[which] += 1
        sampled = _sample(logits[rows], sampling, which, lengths[which] + accepted[which] - 1)
        predicted[rows] = sampled.int()
        steps = zip(list(nodes.items()), sampled.tolist(), strict=True)
        nodes = {
            row: child
            for (row, node), token in steps
            if (child := _child(node, token, tokens[row], children[row], siblings[row])) >= 0
        }
    return predicted, accepted, path


def _child(node: int, token: int, tokens: list[int], children: list[int], siblings: list[int]) -> int:
    child = children[node]
    while child >= 0 and tokens[child] != token:
        child = siblings[child]
    return child


def _sample(logits: Tensor, sampling: Any, which: Tensor, positions: Tensor) -> Tensor:
    """SGLang's sampler for these requests of the batch; `positions` are those of the tokens that are read."""
    from sglang.srt.layers.sampler import sampling_from_probs_torch, top_k_top_p_min_p_sampling_from_probs_torch

    probabilities = torch.softmax(logits / sampling.temperatures[which], dim=-1)
    seed = None if sampling.sampling_seed is None else sampling.sampling_seed[which]
    if not (sampling.need_top_p_sampling or sampling.need_top_k_sampling or sampling.need_min_p_sampling):
        return sampling_from_probs_torch(probabilities, sampling_seed=seed, positions=positions)
    return top_k_top_p_min_p_sampling_from_probs_torch(
        probabilities,
        sampling.top_ks[which],
        sampling.top_ps[which],
        sampling.min_ps[which],
        sampling.need_min_p_sampling,
        seed,
        positions,
        max_top_k=sampling.max_top_k,
    )
