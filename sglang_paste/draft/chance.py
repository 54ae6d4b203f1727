"""How far the text of a predicted call turns out to be right, where it is known how likely that call is.

Either the call is made, and all of its tokens are right but for those that the model divides otherwise; or another one
is, whose text leaves it sooner or later. The more of it the model has written, the likelier it is the call.
"""

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = "NDArray[np.float64]"

# Where the classes of places in a call begin, and how often another call leaves it at a token there, before anything is
# known: calls begin alike, then comes the tool's name, then the arguments.
PLACES = (0, 2, 4, 8, 12, 16, 24, 32, 48)
OTHER = (0.02, 0.05, 0.08, 0.12, 0.12, 0.12, 0.12, 0.1, 0.1)
SAME = 0.003
PRIOR_TRIALS = 20.0
MAX_TRIALS = 400.0


class Chance(NamedTuple):
    """A draft goes on from the `place`-th token of a call, of which all before that is written. When its turn began,
    the call was as likely as `probability`."""

    probability: float
    place: int


class Chances:
    """The odds that the next token of such a draft is wrong, learned from all drafts that were compared. Which of the
    two a call was is never asked: each comparison counts for both, by how likely they are."""

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._trials = np.full(len(PLACES) + 1, PRIOR_TRIALS)
        self._wrong = PRIOR_TRIALS * np.array((*OTHER, SAME))

    def hazards(self, chance: Chance) -> Floats:
        """For each place of the draft, [longest], how often its token is wrong where all before it are right."""
        same, other, _ = self._ahead(chance)
        return _odds(same * self._odds()[-1] + (1 - same) * other)

    def observe(self, chance: Chance, right: int, compared: int) -> None:
        """Of a draft of which `compared` tokens could be compared, the first `right` were generated."""
        same, other, classes = self._ahead(chance)
        seen = slice(0, min(right + 1, compared))
        np.add.at(self._trials, classes[seen], 1 - same[seen])
        self._trials[-1] += same[seen].sum()
        if right < min(compared, self._longest):
            left, split = (1 - same[right]) * other[right], same[right] * self._odds()[-1]
            self._wrong[classes[right]] += left / (left + split)
            self._wrong[-1] += split / (left + split)
        fading = self._trials > MAX_TRIALS
        self._wrong[fading] *= MAX_TRIALS / self._trials[fading]
        self._trials[fading] = MAX_TRIALS

    def _odds(self) -> Floats:
        return _odds(self._wrong / self._trials)

    def _ahead(self, chance: Chance) -> tuple[Floats, Floats, "NDArray[np.int64]"]:
        """For each place of the draft: how likely it is this call if all before is right, how often another call leaves
        it there, and the place's class."""
        odds = self._odds()
        classes = np.searchsorted(PLACES, np.arange(chance.place + self._longest), side="right") - 1
        other = odds[classes]
        written = np.concatenate(([1.0], np.cumprod((1 - other[:-1]) / (1 - odds[-1]))))
        probability = min(max(chance.probability, 1e-3), 1 - 1e-3)
        same = probability / (probability + (1 - probability) * written)
        ahead = slice(chance.place, None)
        return same[ahead], other[ahead], classes[ahead]


def _odds(values: Floats) -> Floats:
    odds: Floats = np.clip(values, 1e-3, 1 - 1e-3)
    return odds
