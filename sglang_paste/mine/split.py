"""Which sessions are trained on and which are tested: by task, never by chance."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Literal

from sglang_paste.mine.read.text import task_text
from sglang_paste.mine.records import Session

Kind = Literal["task", "session"]
MIN_TEXT_WORDS = 4

_SIZE = 8


def task_keys(session: Session) -> tuple[bytes, ...]:
    """What the task of a session is known by: its id, and its text, normalised.

    The same question may stand under several ids, and a task in several sources; but an id that is a mere number is
    one of its source alone, and a text of fewer than four words ("hi there") names no task.
    """
    where = session.source if session.task_id.isdecimal() else ""
    keys = [_digest(f"id/{where}/{session.task_id}")]
    text = task_text(session.turns)
    if text.count(" ") + 1 >= MIN_TEXT_WORDS:
        keys.append(_digest(f"text/{text}"))
    return tuple(keys)


def session_key(session: Session) -> bytes:
    """One session in a recording."""
    return _digest(f"session/{session.source}/{session.tenant}/{session.session_id}")


def recording_key(session: Session) -> bytes:
    """One recording of a session: its ids and all it holds. Sessions may have the same id in two collections."""
    return _digest(repr(session))


class Tasks:
    """Task ids and texts joined into tasks: sessions that share either are of one task, and so on in a chain."""

    def __init__(self) -> None:
        self._parent: dict[bytes, bytes] = {}

    def add(self, session: Session) -> None:
        """Join what this session's task is known by."""
        first, *rest = task_keys(session)
        for key in rest:
            one, other = sorted((self.root(first), self.root(key)))
            self._parent[other] = one
        self.root(first)

    def of(self, session: Session) -> bytes:
        """The task of a session that was added; the same bytes whatever the order they were added in."""
        return self.root(task_keys(session)[0])

    def __contains__(self, session: Session) -> bool:
        """Whether the session is of one of the tasks added, by id or by text."""
        return any(key in self._parent for key in task_keys(session))

    def root(self, key: bytes) -> bytes:
        """The task that one of its keys belongs to."""
        parent = self._parent.setdefault(key, key)
        while parent != key:
            grandparent = self._parent[parent]
            self._parent[key] = grandparent
            key, parent = parent, grandparent
        return key


class Split:
    """A deterministic split of sessions into `folds` parts: whole tasks, or the sessions within them.

    The part of a session depends on its task (or its id) and the number of parts alone.
    """

    def __init__(self, sessions: Iterable[Session], folds: int, by: Kind = "task") -> None:
        self._folds = folds
        self._by = by
        self._tasks = Tasks()
        for session in sessions:
            self._tasks.add(session)

    def part(self, session: Session) -> int:
        """0 to `folds` - 1."""
        key = self._tasks.of(session) if self._by == "task" else session_key(session)
        return int.from_bytes(_digest("part/", key)) % self._folds

    def train(self, sessions: Iterable[Session], part: int) -> Iterator[Session]:
        """All that is not in this part."""
        return (session for session in sessions if self.part(session) != part)

    def test(self, sessions: Iterable[Session], part: int) -> Iterator[Session]:
        """All that is in this part."""
        return (session for session in sessions if self.part(session) == part)


def _digest(text: str, more: bytes = b"") -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "replace") + more, digest_size=_SIZE).digest()
