"""Sessions laid aside on disk, so that mining passes over more of them than memory holds."""

import hashlib
import os
import tempfile
import weakref
import zlib
from collections.abc import Callable, Iterator

import msgspec

from sglang_paste.mine.records import Session
from sglang_paste.mine.split import Tasks, recording_key, task_keys

IN_MEMORY_BYTES = 64 * 1024 * 1024

Item = tuple[Session, str]
"""A session and the name of its task."""


class Spool:
    """Takes sessions one by one; gives them back with the names of their tasks, as often as asked, in an order that
    depends on the sessions alone. Memory holds about 200 bytes for each, and what was laid aside while that is little.
    """

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES)  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._places: list[tuple[bytes, str, bytes, int, int]] = []
        self._tasks = Tasks()
        self._decoder = msgspec.json.Decoder(Session)

    def __iter__(self) -> Iterator[Item]:
        return self.of(lambda task: True)

    def of(self, chosen: Callable[[str], bool]) -> Iterator[Item]:
        """The sessions of the tasks with chosen names."""
        descriptor = self._file.fileno()
        self._file.flush()
        for _, _, key, at, length in sorted(self._places):
            task = self._tasks.root(key).hex()
            if chosen(task):
                yield self._decoder.decode(zlib.decompress(os.pread(descriptor, length, at))), task

    def tasks(self) -> dict[str, str]:
        """The names of all tasks, each with a source it was found in."""
        found: dict[str, str] = {}
        for _, source, key, *_ in sorted(self._places):
            found.setdefault(self._tasks.root(key).hex(), source)
        return found

    def add(self, session: Session) -> None:
        """Lay a session aside. Raises OSError where the disk is full."""
        data = zlib.compress(msgspec.json.encode(session), 1)
        at = self._file.seek(0, 2)
        self._file.write(data)
        key = hashlib.sha256(f"{session.source}/{session.session_id}".encode()).digest()[:8] + recording_key(session)
        self._places.append((key, session.source, task_keys(session)[0], at, len(data)))
        self._tasks.add(session)

    def close(self) -> None:
        """Forget everything. Idempotent."""
        self._file.close()
