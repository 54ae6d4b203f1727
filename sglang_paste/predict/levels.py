"""Raw probabilities made real, by what became of others like them."""

from bisect import bisect

import msgspec


class Level(msgspec.Struct, frozen=True):
    """What a raw probability came to on tasks that were not learned from."""

    raw: float
    real: float


class Line:
    """A rising line through levels, from (0, 0) to the last level and flat from there."""

    def __init__(self, levels: list[Level]) -> None:
        self._raw = [0.0, *(level.raw for level in levels)]
        self._real = [0.0, *(level.real for level in levels)]

    def at(self, raw: float) -> float:
        """The real probability."""
        place = bisect(self._raw, raw)
        if place == len(self._raw):
            return self._real[-1]
        low, high = self._raw[place - 1], self._raw[place]
        share = (raw - low) / (high - low)
        return self._real[place - 1] * (1 - share) + self._real[place] * share
