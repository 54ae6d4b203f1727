"""How far drafts turn out to be right, by source and by the length of the match they rest on."""

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np

from sglang_paste.draft.chance import Chance, Chances, Floats
from sglang_paste.draft.hints import Source

# Where the classes of match lengths and of places in a draft begin.
MATCHES = (1, 2, 3, 4, 6, 9, 17)
PLACES = (0, 1, 2, 4, 8, 16)
# How often a draft's next token is wrong, before anything is known: by class of match length where that says a lot.
PRIOR: dict[Source, tuple[float, ...]] = {
    Source.PREDICTED: (0.1,) * len(MATCHES),
    Source.GRAMMAR: (0.02,) * len(MATCHES),
    Source.SKELETON: (0.2,) * len(MATCHES),
    Source.HISTORY: (0.7, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05),
    Source.PAST: (0.7, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05),
}
PRIOR_TRIALS = 6.0
MAX_TRIALS = 400.0


class Survival:
    """The odds that the next token of a draft is wrong, from all drafts that were compared with what was generated."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._kinds: dict[tuple[Source, int], _Kind] = {}
        self._chances = Chances(longest)

    def hazards(self, source: Source, match: int, chance: Chance | None = None) -> Floats:
        """For each place of a draft, [longest], how often its token is wrong where all before it are right. Where it is
        a call whose `chance` is known, that says more than the match."""
        return self._chances.hazards(chance) if chance else self._kind(source, match).hazards()

    def observe(self, source: Source, match: int, right: int, compared: int, chance: Chance | None = None) -> None:
        """Of a draft of which `compared` tokens could be compared, the first `right` were generated."""
        if chance:
            self._chances.observe(chance, right, compared)
        else:
            self._kind(source, match).observe(right, compared)

    def _kind(self, source: Source, match: int) -> "_Kind":
        key = source, max(0, bisect_right(MATCHES, match) - 1)
        if key not in self._kinds:
            self._kinds[key] = _Kind(PRIOR[source][key[1]], self._longest)
        return self._kinds[key]


class _Kind:
    """Per class of places: how often a token there was compared, and how often it was wrong."""

    def __init__(self, prior: float, longest: int) -> None:
        self._trials = np.full(len(PLACES), PRIOR_TRIALS)
        self._wrong = PRIOR_TRIALS * np.full(len(PLACES), prior)
        self._place = np.array([bisect_right(PLACES, place) - 1 for place in range(longest)])
        self._hazards: Floats | None = None

    def hazards(self) -> Floats:
        if self._hazards is None:
            self._hazards = np.clip(self._wrong / self._trials, 1e-3, 1 - 1e-3)[self._place]
        return self._hazards

    def observe(self, right: int, compared: int) -> None:
        np.add.at(self._trials, self._place[: min(right + 1, compared)], 1.0)
        if right < min(compared, len(self._place)):
            self._wrong[self._place[right]] += 1
        self._hazards = None
        if self._trials.max() > MAX_TRIALS:
            kept = np.maximum(self._trials / 2, PRIOR_TRIALS) / self._trials
            self._trials, self._wrong = self._trials * kept, self._wrong * kept


def shared(draft: Sequence[int], generated: Sequence[int]) -> tuple[int, int]:
    """How many tokens of a draft were generated, and how many could be compared."""
    compared = min(len(draft), len(generated))
    right = next((at for at in range(compared) if draft[at] != generated[at]), compared)
    return right, compared
