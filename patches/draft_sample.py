"""Requests that SGLang's verification does not sample as it does without drafts.

On a CPU it takes the likeliest token, whatever the temperature. Elsewhere it leaves out `min_p`, and everywhere the
request's own logit processors.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from sglang_paste.kernels.verify import Verified, sample_tree


def verifying(
    original: Callable[..., Any], verify_input: Any, batch: Any, logits_output: Any, *rest: Any, **more: Any
) -> Any:
    """Around `eagle_sample`: the original puts penalties, biases and grammars on the logits, and knows what to do on a
    GPU and for greedy requests. Returns what it does: `kernels.verify.Verified`."""
    verified = original(verify_input, batch, logits_output, *rest, **more)
    sampling, logits = batch.sampling_info, logits_output.next_token_logits
    if sampling.has_custom_logit_processor:
        _process(logits, sampling, verify_input.draft_token_num)
    elif sampling.is_all_greedy or not (batch.device == "cpu" or sampling.need_min_p_sampling):
        return verified
    return sampled(verify_input, logits, sampling, batch.seq_lens)


def _process(logits: Tensor, sampling: Any, width: int) -> None:
    """What a request's own processors do to the logits of the roots: of nothing else, as nothing is drafted for a batch
    with one (`draft_limits.is_plain_only`), since they may go by the text."""
    from sglang.srt.layers.sampler import apply_custom_logit_processor

    apply_custom_logit_processor(logits.view(-1, width, logits.shape[-1])[:, 0], sampling)


def sampled(tree: Any, logits: Tensor, sampling: Any, lengths: Tensor) -> Verified:
    """Every token is sampled by SGLang's sampler from the model's own distribution, so drafts change how many come at
    once and nothing else; `logits` [nodes, vocabulary], `lengths` [requests] of the texts before the roots."""
    tokens = tree.draft_token.view(len(lengths), tree.draft_token_num)

    def sample(nodes: Tensor, rows: Tensor, depths: Tensor) -> Tensor:
        return _sample(logits[nodes], sampling, rows, lengths[rows] + depths)

    return sample_tree(tokens, tree.retrieve_next_token, tree.retrieve_next_sibling, sample)


def _sample(logits: Tensor, sampling: Any, which: Tensor, positions: Tensor) -> Tensor:
    """SGLang's sampler for these requests of the batch; `positions` are those of the tokens that are read."""
    from sglang.srt.layers.sampler import sampling_from_probs_torch, top_k_top_p_min_p_sampling_from_probs_torch

    if sampling.is_all_greedy:
        return logits.argmax(dim=-1)
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
