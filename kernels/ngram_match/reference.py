"""The truth about `ngram_match`, slowly."""

import torch
from torch import Tensor

from sglang_paste.kernels.ngram_match.types import VOTERS, Match, Prefer


def ngram_match(
    text: Tensor,
    lengths: Tensor,
    tail: Tensor,
    tail_lengths: Tensor,
    min_match: int,
    max_match: int,
    draft: int,
    prefer: Prefer,
    out: Match,
) -> None:
    for row in range(len(text)):
        known = text[row, : int(lengths[row])].tolist()
        suffix = tail[row, : int(tail_lengths[row])].tolist()
        length, end = _occurrence(known, suffix, min_match, max_match, prefer)
        found = _continuation(known, end)[:draft] if length else []
        out.tokens[row] = torch.tensor(found + [-1] * (draft - len(found)))
        out.count[row], out.length[row], out.place[row] = len(found), length, end


def _occurrence(text: list[int], tail: list[int], min_match: int, max_match: int, prefer: Prefer) -> tuple[int, int]:
    """How much of the tail's end stands in the text, and where the chosen occurrence ends; 0, 0 for nowhere."""
    shared = {end: _shared(text[:end], tail, max_match) for end in range(1, len(text)) if text[end] >= 0}
    length = max(shared.values(), default=0)
    if length < min_match:
        return 0, 0
    ends = sorted((end for end in shared if shared[end] == length), reverse=True)
    if prefer == "recent":
        return length, ends[0]
    votes = [text[end] for end in ends[:VOTERS]]
    return length, max(ends[:VOTERS], key=lambda end: (votes.count(text[end]), end))


def _shared(text: list[int], tail: list[int], most: int) -> int:
    """How many tokens two lists have in common at their ends."""
    length = 0
    for ours, theirs in zip(reversed(text), reversed(tail), strict=False):
        if ours != theirs or ours < 0 or length == most:
            break
        length += 1
    return length


def _continuation(text: list[int], end: int) -> list[int]:
    stop = next((at for at in range(end, len(text)) if text[at] < 0), len(text))
    return text[end:stop]
