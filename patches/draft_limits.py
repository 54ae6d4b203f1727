"""What sets a limit to drafting, so that the text is what it would be without."""

from collections.abc import Sequence
from typing import Any

# In a request's `custom_params`: false where it wants to be decoded without drafts.
KEY = "paste_drafts"


def is_plain_only(batch: Any) -> bool:
    """Whether a batch has what SGLang computes in plain decode steps only."""
    sampling = batch.sampling_info
    return bool(
        sampling.has_custom_logit_processor
        or sampling.has_watermark_candidates
        or sampling.sampling_mask_batch_indices is not None
    )


def limit_of(req: Any, length: int) -> int:
    """How many tokens may be drafted behind the last of `length` + 1. Penalties and a least number of tokens are
    counted per step, the latter anew once a request was retracted, so such requests go step by step for as long as they
    count."""
    wanted = req.sampling_params
    generated = length + 1 - len(req.origin_input_ids)
    if wanted.frequency_penalty or wanted.presence_penalty or wanted.repetition_penalty != 1.0:
        return 0
    if req.decode_batch_idx < wanted.min_new_tokens or req.multimodal_inputs is not None:
        return 0
    if (wanted.custom_params or {}).get(KEY) is False:
        return 0
    return max(0, (wanted.max_new_tokens or 0) - generated - 1)


def prune(grammar: Any, tokens: Sequence[int]) -> Sequence[int]:
    """The beginning of a draft that a grammar allows; the grammar stays where it is. All of it where the grammar cannot
    be asked: then verification cuts it."""
    if not _can_be_asked(grammar) or grammar.finished or grammar.is_terminated():
        return tokens
    taken = 0
    try:
        for token in tokens:
            grammar.accept_token(token)
            taken += 1
            if grammar.is_terminated():
                break
    except ValueError:
        pass
    if taken:
        grammar.rollback(taken)
    return tokens[:taken]


def _can_be_asked(grammar: Any) -> bool:
    """xgrammar refuses a token and goes on; the matchers of other backends are broken by one they do not expect."""
    inner = getattr(grammar, "grammar", None) or grammar  # what holds for the answer alone, in a reasoner's
    return any(kind.__name__ == "XGrammarGrammar" for kind in type(inner).__mro__)
