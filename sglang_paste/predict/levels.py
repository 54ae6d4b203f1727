"""Raw probabilities made real, by what became of others like them."""

from math import exp, log

import msgspec

_EDGE = 1e-4


class Level(msgspec.Struct, frozen=True):
    """From raw probabilities to those found on tasks that were not learned from: `shift` and `slope` in log-odds, and
    `best`, which is added for the likeliest of all candidates."""

    shift: float = 0.0
    slope: float = 1.0
    best: float = 0.0

    def real(self, raw: float, is_best: bool = False) -> float:
        """The real probability."""
        return 1.0 / (1.0 + exp(-self.shift - self.slope * log_odds(raw) - self.best * is_best))


def log_odds(p: float) -> float:
    """The log-odds of a probability, finite for 0 and 1."""
    p = min(max(p, _EDGE), 1.0 - _EDGE)
    return log(p / (1.0 - p))
