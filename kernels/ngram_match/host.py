"""`ngram_match` on a CPU: each row is searched from its end in growing pieces, and the search stops once it cannot get
better. The rows are numpy views, whose operations cost a microsecond where torch's cost ten and a thread pool."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from sglang_paste.kernels.ngram_match.types import VOTERS, Match, Prefer

FIRST_PIECE = 1024
FEW = 4


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
    tokens, counts, matched, places = (each.numpy() for each in out)
    tokens[:], counts[:], matched[:], places[:] = -1, 0, 0, 0
    rows = zip(text.numpy(), lengths.tolist(), tail.numpy(), tail_lengths.tolist(), strict=True)
    for row, (known, size, suffix, suffix_size) in enumerate(rows):
        known = known[:size]
        wanted = _matchable(suffix[max(0, suffix_size - max_match) : suffix_size])
        length, end = _longest(known, wanted, min_match)
        if not length:
            continue
        if prefer == "frequent":
            end = _most_frequent(known, wanted[:length])
        found = known[end : end + draft]
        count = _first(found < 0, len(found))
        tokens[row, :count], counts[row], matched[row], places[row] = found[:count], count, length, end


def _matchable(suffix: Any) -> Any:
    """The suffix backwards, as far as it is one text."""
    backwards = suffix[::-1]
    return backwards[: _first(backwards < 0, len(backwards))]


def _first(flags: Any, otherwise: int) -> int:
    return int(flags.argmax()) if flags.any() else otherwise


def _longest(text: Any, wanted: Any, min_match: int) -> tuple[int, int]:
    """The longest match with the most recent end, or 0, 0; `wanted` runs backwards."""
    best, where = min_match - 1, 0
    for low, high in _pieces(len(text)):
        if best >= len(wanted):
            break
        length = min(2, best + 1)
        ends = _ends(text, wanted[:length], low, high)
        while len(ends) > FEW and length < len(wanted) and len(fewer := _narrow(text, ends, wanted, length)):
            length, ends = length + 1, fewer
        alike = len(ends) > FEW
        for end in ends[-1:] if alike else ends[::-1]:
            shared = length if alike else _shared(text, int(end), wanted)
            if shared > best:
                best, where = shared, int(end)
    return (best, where) if where else (0, 0)


def _shared(text: Any, end: int, wanted: Any) -> int:
    before = text[max(0, end - len(wanted)) : end][::-1]
    return _first(before != wanted[: len(before)], len(before))


def _most_frequent(text: Any, wanted: Any) -> int:
    """The most recent end whose next token follows most of the last matches."""
    voters: list[int] = []
    for low, high in _pieces(len(text)):
        ends = _ends(text, wanted[:2], low, high)
        for at in range(2, len(wanted)):
            ends = _narrow(text, ends, wanted, at)
        voters += ends[::-1].tolist()
        if len(voters) >= VOTERS:
            break
    votes = text[voters[:VOTERS]].tolist()
    return max(zip(map(votes.count, votes), voters, strict=False))[1]


def _pieces(size: int) -> Iterator[tuple[int, int]]:
    """Ranges of ends, the last first, each longer than the one before."""
    high, piece = size, FIRST_PIECE
    while high > 1:
        low = max(1, high - piece)
        yield low, high
        high, piece = low, 4 * piece


def _ends(text: Any, wanted: Any, low: int, high: int) -> Any:
    """Where something follows these tokens, one or two of them; whole ranges are compared sooner than single places."""
    low = max(low, len(wanted))
    hits = text[low - 1 : high - 1] == wanted[0]
    if len(wanted) > 1:
        hits &= text[low - 2 : high - 2] == wanted[1]
    ends = hits.nonzero()[0] + low
    return ends[text[ends] >= 0]


def _narrow(text: Any, ends: Any, wanted: Any, at: int) -> Any:
    ends = ends[ends > at]
    return ends[text[ends - at - 1] == wanted[at]]
