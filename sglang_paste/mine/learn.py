"""Mining: recorded sessions in, patterns out."""

from collections.abc import Callable
from contextlib import closing

from sglang_paste.mine.records import Session
from sglang_paste.mine.spool import Spool
from sglang_paste.mine.train import Trainer
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
            return Trainer(self.k, self._spool).patterns()
