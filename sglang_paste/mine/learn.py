"""Mining: recorded sessions in, patterns out."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing

import msgspec

from sglang_paste.mine.beside import beside
from sglang_paste.mine.calibrate import judge, levels
from sglang_paste.mine.records import Session
from sglang_paste.mine.remember import remember
from sglang_paste.mine.spool import Item, Spool
from sglang_paste.mine.train import Trainer, half_of
from sglang_paste.predict.levels import Level
from sglang_paste.predict.mined import Mined
from sglang_paste.predict.patterns import Patterns


class Miner:
    """Takes sessions one by one, gives patterns. The order they come in makes no difference."""

    def __init__(self, k: int = 5) -> None:
        self.k = k
        self._spool = Spool()

    def add(self, session: Session) -> None:
        """Take in one session."""
        self._spool.add(session)

    def finish(self, progress: Callable[[float], None] | None = None) -> Patterns:
        """The patterns of all sessions taken in, which are then forgotten."""
        with closing(self._spool):
            told = progress or _quietly
            line = beside(lambda: msgspec.msgpack.encode(self._levels()))
            trainer = Trainer(self.k, self._spool)
            told(0.3)
            patterns = trainer.patterns()
            told(0.8)
            patterns.recollections, patterns.trust = remember(self._spool)
            patterns.levels = msgspec.msgpack.decode(line(), type=dict[str, list[Level]])
            return patterns

    def _levels(self) -> dict[str, list[Level]]:
        """Learn from one half of the tasks, look at the other."""
        learned = Trainer(self.k, _Half(self._spool, 1)).patterns()
        return levels(judge(Mined(learned), _Half(self._spool, 0)))


def _quietly(share: float) -> None: ...


class _Half:
    """The sessions of one half of the tasks."""

    def __init__(self, items: Iterable[Item], half: int) -> None:
        self._items = items
        self._half = half

    def __iter__(self) -> Iterator[Item]:
        return (item for item in self._items if half_of(item[1]) == self._half)
