"""Mining: recorded sessions in, patterns out."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from hashlib import sha256

import msgspec

from sglang_paste.mine.beside import beside
from sglang_paste.mine.calibrate import judge, levels
from sglang_paste.mine.records import Session
from sglang_paste.mine.remember import remember
from sglang_paste.mine.spool import Item, Spool
from sglang_paste.mine.train import Trainer
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
        """Learn from three quarters of the tasks, look at the others."""
        learned = Trainer(self.k, _Part(self._spool, lambda task: not _is_aside(task))).patterns()
        return levels(judge(Mined(learned), _Part(self._spool, _is_aside)))


def _quietly(share: float) -> None: ...


class _Part:
    """The sessions of some tasks."""

    def __init__(self, items: Iterable[Item], chosen: Callable[[str], bool]) -> None:
        self._items = items
        self._chosen = chosen

    def __iter__(self) -> Iterator[Item]:
        return (item for item in self._items if self._chosen(item[1]))


def _is_aside(task: str) -> bool:
    return sha256(f"aside/{task}".encode()).digest()[0] < 64
