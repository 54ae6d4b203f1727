"""How busy the cores are that tools run on."""

import os
from collections.abc import Callable, Collection
from pathlib import Path

PERIOD_S = 0.25
_STAT = Path("/proc/stat")
_IDLE = (3, 4)
_COUNTED = 8  # what guests take is in the user's time as well


class Cores:
    """The share of the time in which these cores were not idle, as the kernel counts it: 1 where that cannot be known.

    What waits for something costs nothing here, and what works counts, whoever started it.
    """

    def __init__(self, clock: Callable[[], float], cores: Collection[int] | None = None, stat: Path = _STAT) -> None:
        self._clock = clock
        self._cores = frozenset(os.sched_getaffinity(0) if cores is None else cores)
        self._stat = stat
        self._last = self._ticks()
        self._read_at = clock()
        self._busy = 0.0

    def busy(self) -> float:
        """From 0 to 1, over the time since it was last read, `PERIOD_S` or more."""
        now = self._clock()
        if now >= self._read_at + PERIOD_S:
            self._read_at, before = now, self._last
            self._last = self._ticks()
            self._busy = _share(before, self._last)
        return self._busy

    def _ticks(self) -> tuple[int, int] | None:
        """Ticks in which they were idle, and all of them."""
        try:
            lines = [line.split() for line in self._stat.read_text().splitlines() if line.startswith("cpu")]
            counts = [[int(count) for count in line[1 : _COUNTED + 1]] for line in lines if self._is_ours(line[0])]
            idle = sum(count[place] for count in counts for place in _IDLE)
        except (OSError, ValueError, IndexError):
            return None
        return (idle, sum(map(sum, counts))) if counts else None

    def _is_ours(self, name: str) -> bool:
        number = name.removeprefix("cpu")
        return number.isdigit() and int(number) in self._cores


def _share(before: tuple[int, int] | None, after: tuple[int, int] | None) -> float:
    if before is None or after is None:
        return 1.0
    idle, ticks = after[0] - before[0], after[1] - before[1]
    return 1.0 - min(max(idle / ticks, 0.0), 1.0) if ticks > 0 else 0.0
