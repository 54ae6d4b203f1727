"""Texts, beside its own history, in which a request's next tokens may stand.

Other rooms put them here by the request's id: a predicted call, the skeleton of a tool's calls, past calls of the
tenant. The worker looks up the end of what the request has so far in each of them; what follows there is drafted. A
text whose call starts the turn begins with the last tokens of the prompt, so that it is found before anything is
generated.
"""

from collections.abc import Sequence
from enum import StrEnum

import msgspec

MAX_REQUESTS = 4096
MAX_TEXTS = 4
MAX_TOKENS = 1024
MAX_TOTAL_TOKENS = 1 << 21
MIN_MATCH = 2


class Source(StrEnum):
    """Where a draft comes from, in order of trust."""

    PREDICTED = "predicted"
    GRAMMAR = "grammar"
    SKELETON = "skeleton"
    HISTORY = "history"
    PAST = "past"


class Hint(msgspec.Struct, frozen=True):
    """A text of at most `MAX_TOKENS` tokens. It is believed where the last `min_match` tokens of the request or more
    stand in it. Of a call that may come next, `probability` says how likely that is."""

    source: Source
    tokens: tuple[int, ...]
    min_match: int = MIN_MATCH
    probability: float | None = None


class Hints:
    """The hints of the requests under way, bounded in every direction; a request's own go with `drop`."""

    def __init__(self, max_requests: int = MAX_REQUESTS) -> None:
        self._max_requests = max_requests
        self._by_source: dict[str, dict[Source, tuple[Hint, ...]]] = {}
        self._of: dict[str, tuple[Hint, ...]] = {}
        self._tokens = 0

    def put(
        self,
        request: str,
        source: Source,
        texts: Sequence[Sequence[int]],
        *,
        min_match: int = MIN_MATCH,
        probabilities: Sequence[float] = (),
    ) -> None:
        """Let these texts take the place of what the source knew of the request, the likeliest first; where their
        `probabilities` are known, there is one for each.

        What is beyond `MAX_TEXTS` or beyond a text's first `MAX_TOKENS` is left out, and so is a text too short to be
        of use. When there are too many requests or tokens, the request that came first loses its hints.
        """
        likely: Sequence[float | None] = probabilities or [None] * len(texts)
        told = zip(texts, likely, strict=True)
        kept = [Hint(source, tuple(text[:MAX_TOKENS]), min_match, p) for text, p in told if len(text) > min_match]
        known = self._by_source.setdefault(request, {})
        self._tokens -= _size(known.get(source, ()))
        known[source] = tuple(kept[:MAX_TEXTS])
        self._tokens += _size(known[source])
        self._of[request] = tuple(hint for each in Source for hint in known.get(each, ()))
        while len(self._of) > self._max_requests or self._tokens > MAX_TOTAL_TOKENS:
            self.drop(next(iter(self._of)))

    def of(self, request: str) -> tuple[Hint, ...]:
        """What is known of a request, in order of trust; the same object until something is put."""
        return self._of.get(request, ())

    def drop(self, request: str) -> None:
        """The request has ended."""
        self._tokens -= _size(self._of.pop(request, ()))
        self._by_source.pop(request, None)

    def __len__(self) -> int:
        return len(self._of)


def _size(hints: tuple[Hint, ...]) -> int:
    return sum(len(hint.tokens) for hint in hints)
