"""What the processes of a server wrote down about its requests, in seconds of the machine's monotonic clock."""

from bisect import bisect
from collections import defaultdict
from pathlib import Path

import msgspec


class Sent(msgspec.Struct, tag="sent"):
    """A prompt of so many tokens went to the scheduler; equal digests, equal tokens."""

    rid: str
    time: float
    tokens: int
    digest: int


class Forward(msgspec.Struct, tag="forward"):
    """One run of the model for some requests; `greedy` is what each would have said next, had nothing been scripted."""

    rids: list[str]
    start: float
    end: float
    extend: bool
    greedy: list[int]


Stamp = Sent | Forward
_DECODER = msgspec.json.Decoder(Stamp)


class Stamps:
    """All that was written about requests into a folder."""

    def __init__(self, folder: Path) -> None:
        self.sent: dict[str, Sent] = {}
        self.runs: list[Forward] = []
        self.forwards: defaultdict[str, list[Forward]] = defaultdict(list)
        for file in sorted(folder.glob("*.jsonl")):
            for line in file.read_bytes().splitlines():
                self._add(_DECODER.decode(line))
        self.runs.sort(key=_start)

    def greedy(self, rid: str, count: int) -> list[int]:
        """The last `count` tokens the model itself would have said, one for each scripted one."""
        said = [forward.greedy[forward.rids.index(rid)] for forward in self.forwards[rid] if forward.greedy]
        return said[-count:]

    def busy(self, start: float, end: float) -> float:
        """Seconds between two times in which the model ran, for whomever."""
        first = max(0, bisect(self.runs, start, key=_start) - 1)
        runs = self.runs[first : bisect(self.runs, end, key=_start)]
        return sum(max(0.0, min(run.end, end) - max(run.start, start)) for run in runs)

    def _add(self, stamp: Stamp) -> None:
        if isinstance(stamp, Sent):
            self.sent[stamp.rid] = stamp
        else:
            self.runs.append(stamp)
            for rid in stamp.rids:
                self.forwards[rid].append(stamp)


def _start(run: Forward) -> float:
    return run.start
