"""Where a batch's next tokens may stand: each request's own text, and the hints that were given for it."""

from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sglang_paste.draft.chance import Chance
from sglang_paste.draft.gate import Offer
from sglang_paste.draft.hints import MAX_REQUESTS, Hint, Hints, Source
from sglang_paste.draft.offers import HEAD
from sglang_paste.kernels.ngram_match import Match, ngram_match
from sglang_paste.patches.draft_grammar import Forced

MAX_MATCH = 24
MIN_MATCH = 1


class _Texts(NamedTuple):
    """The texts of a source for one request, -1 between them; where each begins, and how likely it was."""

    tokens: list[int]
    min_match: int
    begins: list[int]
    probabilities: list[float | None]

    def chance(self, length: int, place: int) -> Chance | None:
        """Of a match of so many tokens, behind which the text goes on at `place`: the call's chance, if it is known and
        the match reaches back to the call's beginning."""
        which = bisect_right(self.begins, place) - 1
        probability, written = self.probabilities[which], place - self.begins[which] - HEAD
        return None if probability is None or length < written else Chance(probability, max(written, 0))


class Found(NamedTuple):
    """What a source found for those requests of the batch that stand at `rows`; in which `texts`, if in hints."""

    source: Source
    rows: list[int]
    match: Match
    texts: Sequence[_Texts] = ()

    def offers(self) -> Iterator[tuple[int, Offer]]:
        """Each draft with the row that it is for, read from the device."""
        tokens, *numbers = self.match
        lists = zip(self.rows, tokens.tolist(), *(each.tolist() for each in numbers), strict=True)
        for at, (row, drafted, count, length, place) in enumerate(lists):
            if count:
                chance = self.texts[at].chance(length, place) if self.texts else None
                yield row, Offer(self.source, length, drafted[:count], chance)

    def spread(self, size: int) -> tuple[Tensor, Tensor]:
        """Tokens [size, longest] and counts [size] of a whole batch, none where the source was not asked."""
        tokens, count = self.match.tokens, self.match.count
        if len(self.rows) == size:
            return tokens, count
        rows = torch.tensor(self.rows).to(tokens.device, non_blocking=True)
        return (
            tokens.new_zeros((size, tokens.shape[1])).index_copy_(0, rows, tokens),
            count.new_zeros(size).index_copy_(0, rows, count),
        )


class Lookup:
    """Looks up the ends of a batch's texts in what the `wanted` sources know. Drafts are at most `longest` tokens."""

    def __init__(
        self, hints: Hints, longest: int, wanted: Collection[str] = tuple(Source), forced: Forced | None = None
    ) -> None:
        self._hints = hints
        self._longest = longest
        self._wanted = [source for source in Source if source in wanted]
        self._forced = forced
        self._texts: dict[str, tuple[tuple[Hint, ...], dict[Source, _Texts]]] = {}

    def find(self, reqs: Sequence[Any], tokens: Tensor, lengths: Tensor) -> Iterator[Found]:
        """In order of trust; `tokens` and `lengths` are the history's rows of the batch."""
        texts = [self._texts_of(req.rid) for req in reqs]
        for source in self._wanted:
            if source is Source.GRAMMAR:
                yield from self._grammars(reqs, tokens)
            elif source is Source.HISTORY:
                yield Found(source, list(range(len(reqs))), self._match(tokens, lengths, min_match=MIN_MATCH))
            elif rows := [row for row, known in enumerate(texts) if source in known]:
                yield self._hinted(source, rows, [texts[row][source] for row in rows], tokens, lengths)

    def drop(self, request: str) -> None:
        """The request has ended."""
        self._texts.pop(request, None)

    def _grammars(self, reqs: Sequence[Any], like: Tensor) -> Iterator[Found]:
        """What grammars force, for those requests of which they force anything."""
        if self._forced is None or all(req.grammar is None for req in reqs):
            return
        drafts = {row: self._forced.of(req)[: self._longest] for row, req in enumerate(reqs)}
        if rows := [row for row, draft in drafts.items() if draft]:
            padded = [[*drafts[row], *[-1] * (self._longest - len(drafts[row]))] for row in rows]
            tokens = torch.tensor(padded, dtype=like.dtype, device=like.device)
            count = (tokens >= 0).sum(1, dtype=torch.int32)
            yield Found(Source.GRAMMAR, rows, Match(tokens, count, torch.full_like(count, MAX_MATCH), count * 0))

    def _hinted(self, source: Source, rows: list[int], texts: list[_Texts], tokens: Tensor, lengths: Tensor) -> Found:
        sizes = torch.tensor([len(text.tokens) for text in texts])
        packed = torch.full((len(texts), int(sizes.max())), -1, dtype=torch.int32)
        for row, text in zip(packed, texts, strict=True):
            row[: len(text.tokens)] = torch.tensor(text.tokens)
        which = torch.tensor(rows, device=tokens.device)
        tails, ends = _tails(tokens.index_select(0, which), lengths.index_select(0, which))
        shortest = min(text.min_match for text in texts)
        sizes, packed = sizes.to(tokens.device), packed.to(tokens.device)
        return Found(source, rows, self._match(packed, sizes, tail=tails, tail_lengths=ends, min_match=shortest), texts)

    def _match(self, text: Tensor, lengths: Tensor, min_match: int, **tail: Tensor) -> Match:
        return ngram_match(text, lengths, min_match=min_match, max_match=MAX_MATCH, draft=self._longest, **tail)

    def _texts_of(self, request: str) -> dict[Source, _Texts]:
        """By source, the likeliest text last, as the last wins."""
        hints = self._hints.of(request)
        known = self._texts.get(request)
        if known is None or known[0] is not hints:
            if len(self._texts) >= MAX_REQUESTS:
                self._texts.clear()
            texts: dict[Source, _Texts] = {}
            for hint in reversed(hints):
                before = texts.get(hint.source, _Texts([], hint.min_match, [], []))
                texts[hint.source] = _Texts(
                    [*before.tokens, *hint.tokens, -1],
                    min(before.min_match, hint.min_match),
                    [*before.begins, len(before.tokens)],
                    [*before.probabilities, hint.probability],
                )
            self._texts[request] = known = hints, texts
        return known[1]


def _tails(tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """The last `MAX_MATCH` tokens of each row, at its end."""
    places = lengths[:, None] - MAX_MATCH + torch.arange(MAX_MATCH, device=tokens.device)
    tails = torch.where(places < 0, -1, tokens.gather(1, places.clamp(min=0)))
    return tails, torch.full_like(lengths, MAX_MATCH)
