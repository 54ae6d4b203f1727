"""Prompt lookup for a batch: what followed the last time the text ended as it does now."""

import torch
from torch import Tensor

from sglang_paste.kernels.device import uses_triton
from sglang_paste.kernels.ngram_match import host
from sglang_paste.kernels.ngram_match.types import Match, Prefer

__all__ = ["Match", "Prefer", "ngram_match"]


def ngram_match(
    text: Tensor,
    lengths: Tensor,
    *,
    min_match: int,
    max_match: int,
    draft: int,
    prefer: Prefer = "recent",
    tail: Tensor | None = None,
    tail_lengths: Tensor | None = None,
    out: Match | None = None,
) -> Match:
    """Find each row's longest suffix of min_match to max_match tokens that stands in its text with something after it,
    and return up to `draft` tokens of what comes after it.

    text: [rows, capacity] int32 or int64, strided as it may be; a row's tokens are its first `lengths`
    lengths: [rows] int32 or int64
    tail, tail_lengths: whose suffix is looked for, [rows, any capacity], same dtype; the text itself when left out
    prefer: among the longest matches the most `recent`, or the most recent of those whose next token is most `frequent`
        after the last 64 of them
    out: tensors to write to

    A negative id separates texts: nothing matches it or across it, and a continuation ends before it. So one row can
    hold several texts, -1 between them. Results are exact integers. ValueError for numbers that cannot be met.
    """
    if not 1 <= min_match <= max_match or draft < 1:
        raise ValueError(f"matches of {min_match} to {max_match} tokens with {draft} drafted; each must be at least 1")
    if (tail is None) != (tail_lengths is None):
        raise ValueError("tail and tail_lengths belong together; one of them is None")
    if tail is None or tail_lengths is None:
        tail, tail_lengths = text, lengths
    if out is None:
        numbers = torch.empty((3, len(text)), dtype=torch.int32, device=text.device)
        out = Match(text.new_empty((len(text), draft)), *numbers)
    if uses_triton(text):
        from sglang_paste.kernels.ngram_match import triton

        triton.ngram_match(text, lengths, tail, tail_lengths, min_match, max_match, draft, prefer, out)
    else:
        host.ngram_match(text, lengths, tail, tail_lengths, min_match, max_match, draft, prefer, out)
    return out
