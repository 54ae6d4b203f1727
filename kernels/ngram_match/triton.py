"""`ngram_match` on a GPU, in two launches: every piece of every text is read once and answers with its best match, then
one program for each row takes the best of these and reads what follows."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from sglang_paste.kernels.ngram_match.types import VOTERS, Match, Prefer

PIECE = 1024


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
    rows, capacity = text.shape
    if not rows:
        return
    pieces = max(1, triton.cdiv(capacity, PIECE))
    best = torch.empty((rows, pieces), dtype=torch.int64, device=text.device)
    voters = best.new_empty((rows, VOTERS if prefer == "frequent" else 0))
    texts = (text, *text.stride(), lengths.contiguous(), tail, *tail.stride(), tail_lengths.contiguous())
    _best_of_pieces[(rows, pieces)](*texts, best, pieces, min_match, max_match, PIECE)
    _continue_best[(rows,)](
        *texts,
        best,
        pieces,
        voters,
        draft,
        out.tokens,
        *out.tokens.stride(),
        out.count,
        out.count.stride(0),
        out.length,
        out.length.stride(0),
        out.place,
        out.place.stride(0),
        triton.next_power_of_2(pieces),
        triton.next_power_of_2(draft),
        PIECE,
        VOTERS,
        prefer == "frequent",
    )


@triton.jit
def _shared(text, text_step, ends, alive, tail, tail_step, tail_size, most):
    """How many tokens before each of `ends` are those at the end of the tail, `most` at most; 0 where not alive."""
    shared = tl.zeros_like(ends).to(tl.int32)
    at = 0
    while (at < most) & (tl.max(alive.to(tl.int32), axis=0) > 0):
        wanted = tl.load(tail + (tail_size - 1 - at) * tail_step)
        alive = alive & (ends > at)
        found = tl.load(text + (ends - 1 - at) * text_step, mask=alive, other=-1)
        alive = alive & (found == wanted) & (wanted >= 0)
        shared += alive.to(tl.int32)
        at += 1
    return shared


@triton.jit
def _best_of_pieces(
    text,
    text_row,
    text_step,
    lengths,
    tail,
    tail_row,
    tail_step,
    tail_lengths,
    best,
    pieces,
    min_match,
    max_match,
    PIECE: tl.constexpr,
):
    """Write each piece's best match: its length in the upper 32 bits, where it ends in the lower, or 0."""
    row, piece = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    size, tail_size = tl.load(lengths + row).to(tl.int64), tl.load(tail_lengths + row).to(tl.int64)
    text += row * text_row
    ends = piece * PIECE + tl.arange(0, PIECE)
    follows = tl.load(text + ends * text_step, mask=ends < size, other=-1)
    alive = (ends < size) & (follows >= 0)
    most = tl.minimum(max_match, tail_size)
    shared = _shared(text, text_step, ends, alive, tail + row * tail_row, tail_step, tail_size, most)
    keys = tl.where(shared >= min_match, (shared.to(tl.int64) << 32) + ends, 0)
    tl.store(best + row * pieces + piece, tl.max(keys, axis=0))


@triton.jit
def _continue_best(
    text,
    text_row,
    text_step,
    lengths,
    tail,
    tail_row,
    tail_step,
    tail_lengths,
    best,
    pieces,
    voters,
    draft,
    tokens,
    tokens_row,
    tokens_step,
    counts,
    counts_step,
    matched,
    matched_step,
    begins,
    begins_step,
    PIECES: tl.constexpr,
    DRAFT: tl.constexpr,
    PIECE: tl.constexpr,
    VOTERS: tl.constexpr,
    FREQUENT: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    size = tl.load(lengths + row).to(tl.int64)
    text += row * text_row
    best += row * pieces
    places = tl.arange(0, PIECES)
    key = tl.max(tl.load(best + places, mask=places < pieces, other=0), axis=0)
    length, end = key >> 32, key & 0xFFFFFFFF
    if FREQUENT:  # noqa: SIM102 (this one is decided when compiling)
        if length > 0:
            tail_size = tl.load(tail_lengths + row).to(tl.int64)
            tail += row * tail_row
            voters += row * VOTERS
            voting = _gather_voters(
                text, text_step, size, tail, tail_step, tail_size, best, pieces, length, voters, PIECE, VOTERS
            )
            end = _elected(text, text_step, voters, voting, VOTERS)
    step = tl.arange(0, DRAFT)
    inside = (step < draft) & (end + step < size) & (length > 0)
    found = tl.load(text + (end + step) * text_step, mask=inside, other=-1)
    count = tl.min(tl.where(found < 0, step, DRAFT), axis=0)
    count = tl.minimum(count, draft)
    tl.store(tokens + row * tokens_row + step * tokens_step, tl.where(step < count, found, -1), mask=step < draft)
    tl.store(counts + row * counts_step, count)
    tl.store(matched + row * matched_step, length)
    tl.store(begins + row * begins_step, end)


@triton.jit
def _gather_voters(
    text,
    text_step,
    size,
    tail,
    tail_step,
    tail_size,
    best,
    pieces,
    length,
    voters,
    PIECE: tl.constexpr,
    VOTERS: tl.constexpr,
):
    """Write where the last matches of this length end, the last first; return how many there are."""
    voting = tl.zeros((), tl.int64)
    piece = pieces - 1 + tl.zeros((), tl.int64)
    while (piece >= 0) & (voting < VOTERS):
        if (tl.load(best + piece) >> 32) == length:
            ends = piece * PIECE + tl.arange(0, PIECE)
            follows = tl.load(text + ends * text_step, mask=ends < size, other=-1)
            alive = (ends < size) & (follows >= 0)
            shared = _shared(text, text_step, ends, alive, tail, tail_step, tail_size, length)
            matches = (shared == length).to(tl.int64)
            total = tl.sum(matches, axis=0)
            slots = voting + total - tl.cumsum(matches, axis=0)
            tl.store(voters + slots, ends, mask=(matches > 0) & (slots < VOTERS))
            voting += total
        piece -= 1
    tl.debug_barrier()
    return tl.minimum(voting, VOTERS)


@triton.jit
def _elected(text, text_step, voters, voting, VOTERS: tl.constexpr):
    """The first voter among those whose next token has the most votes."""
    slot = tl.arange(0, VOTERS)
    ends = tl.load(voters + slot, mask=slot < voting, other=0)
    choice = tl.load(text + ends * text_step, mask=slot < voting, other=-1)
    votes = tl.sum(((choice[:, None] == choice[None, :]) & (slot < voting)[None, :]).to(tl.int32), axis=1)
    ranks = tl.where(slot < voting, votes * VOTERS + (VOTERS - 1 - slot), -1)
    chosen = VOTERS - 1 - tl.max(ranks, axis=0) % VOTERS
    return tl.sum(tl.where(slot == chosen, ends, 0), axis=0)
