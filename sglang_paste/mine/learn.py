"""Mining: recorded sessions in, patterns out."""

from collections.abc import Callable
from hashlib import sha256

from sglang_paste.mine.records import Session
from sglang_paste.mine.split import Tasks
from sglang_paste.mine.train import Trainer
from sglang_paste.predict.patterns import Patterns


class Miner:
    """Takes sessions one by one, gives patterns. The order they come in makes no difference."""

    def __init__(self, k: int = 5) -> None:
        self.k = k
        self._sessions: list[Session] = []
        self._tasks = Tasks()

    def add(self, session: Session) -> None:
        """Take in one session."""
        self._sessions.append(session)
        self._tasks.add(session)

    def finish(self, progress: Callable[[float], None] | None = None) -> Patterns:
        """The patterns of all sessions taken in."""
        items = [(session, self._tasks.of(session).hex()) for session in self._sessions]
        items.sort(key=lambda item: sha256(f"{item[0].source}/{item[0].session_id}".encode()).digest())
        return Trainer(self.k, items).patterns()
