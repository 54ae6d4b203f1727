"""Recorded sessions in four formats, read one at a time."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

import msgspec

from sglang_paste.errors import ConfigError
from sglang_paste.mine.read import atif, journal, openai, own
from sglang_paste.mine.read.lines import SQLITE, Document, documents, first_bytes
from sglang_paste.mine.read.text import digest
from sglang_paste.mine.records import FORMATS, Format, Session

ROLES = frozenset(("system", "user", "assistant", "tool"))
SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".sqlite")

_FAULTS = (msgspec.MsgspecError, UnicodeError, RecursionError)


class Counts(msgspec.Struct):
    """What a reader came across. `malformed` counts lines, `left_out` single calls of sessions that were read, and
    `foreign` files of a folder that are of no known format."""

    files: int = 0
    sessions: int = 0
    calls: int = 0
    malformed: int = 0
    left_out: int = 0
    duplicates: int = 0
    empty: int = 0
    foreign: int = 0

    def __str__(self) -> str:
        rest = {
            "malformed lines skipped": self.malformed,
            "calls left out": self.left_out,
            "duplicate sessions skipped": self.duplicates,
            "empty sessions skipped": self.empty,
            "files of no known format": self.foreign,
        }
        told = [f"{count:,} {name}" for name, count in rest.items() if count]
        return ", ".join([f"{self.sessions:,} sessions with {self.calls:,} calls in {self.files:,} files", *told])


class Reader:
    """The sessions in files and folders, in the order given, those of a folder by name; once per iteration.

    A file's format is known by its first document, unless `form` says it. `report` hears of everything passed over, as
    `file:line: why`. Memory holds one document, and some bytes for each session: the second of the same source, tenant
    and id is a duplicate. Raises ConfigError where nothing can be read at all, and for a named file of no known format.
    """

    def __init__(
        self, paths: Sequence[Path], form: Format | None = None, report: Callable[[str], None] = lambda line: None
    ) -> None:
        self._files = list(_files(paths))
        self._form = form
        self._report = report
        self._open: IO[bytes] | None = None
        self.counts = Counts()
        self.bytes_total = sum(path.stat().st_size for path, _ in self._files)
        self._bytes_before = 0

    @property
    def bytes_read(self) -> int:
        """How far the iteration is, in bytes as they lie on the disk."""
        at = self._open.tell() if self._open is not None and not self._open.closed else 0
        return self._bytes_before + at

    def __iter__(self) -> Iterator[Session]:
        self.counts, self._bytes_before = Counts(), 0
        seen = set[bytes]()
        for path, named in self._files:
            for session in self._sessions(path, named):
                if self._keep(path, session, seen):
                    yield session
            self._bytes_before += path.stat().st_size

    def _keep(self, path: Path, session: Session, seen: set[bytes]) -> bool:
        if not session.turns:
            self.counts.empty += 1
            return False
        key = bytes.fromhex(digest(f"{session.source}\0{session.tenant}\0{session.session_id}".encode()))
        if key in seen:
            self._report(f"{path}: session {session.session_id!r} was read before; this one is skipped")
            self.counts.duplicates += 1
            return False
        seen.add(key)
        self.counts.sessions += 1
        self.counts.calls += sum(len(turn.tool_calls) for turn in session.turns)
        return True

    def _sessions(self, path: Path, named: bool) -> Iterator[Session]:
        try:
            if first_bytes(path) == SQLITE:
                yield from self._of_journal(path)
                return
            with path.open("rb") as self._open:
                yield from self._of_documents(path, documents(self._open), named)
        except OSError as error:
            raise ConfigError(f"{path} cannot be read ({error}); name a file or folder that can") from error

    def _of_journal(self, path: Path) -> Iterator[Session]:
        if self._form not in (None, "journal"):
            raise ConfigError(f"{path} is an SQLite file, not of the format {self._form}; leave --format out")
        self.counts.files += 1
        yield from journal.read(path, lambda why: self._leave_out(f"{path}: {why}"))

    def _of_documents(self, path: Path, found: Iterator[Document], named: bool) -> Iterator[Session]:
        form = self._form
        for document in found:
            where = f"{path}:{document.line}"
            if document.fault:
                self._malformed(where, document.fault)
                continue
            try:
                form = form or _recognised(document.data)
                if form is None:
                    return self._foreign(path, named)
                sessions = self._parse(form, document.data, where)
            except _FAULTS as error:
                self._malformed(where, str(error))
                continue
            yield from sessions
        self.counts.files += 1

    def _parse(self, form: Format, data: bytes, where: str) -> list[Session]:
        if form == "journal":
            raise ConfigError(f"{where.rpartition(':')[0]} is no SQLite file, and so no journal; leave --format out")
        if form == "sessions":
            found = own.read(data)
        elif form == "atif":
            found = atif.read(data)
        else:
            found = openai.read(data, lambda why: self._leave_out(f"{where}: {why}"))
        for session in found:
            check(session)
        return found

    def _foreign(self, path: Path, named: bool) -> None:
        if named:
            raise ConfigError(f"{path} holds no sessions in a known format ({', '.join(FORMATS)}); name another file")
        self._report(f"{path}: not in a known format ({', '.join(FORMATS)}); the file is skipped")
        self.counts.foreign += 1

    def _malformed(self, where: str, why: str) -> None:
        self.counts.malformed += 1
        self._report(f"{where}: {why}; the line is skipped")

    def _leave_out(self, what: str) -> None:
        self.counts.left_out += 1
        self._report(what)


def check(session: Session) -> None:
    """Raises msgspec.ValidationError where a turn has a role that is not known, or a text that is not Unicode."""
    for turn in session.turns:
        if turn.role not in ROLES:
            raise msgspec.ValidationError(f"a turn has the role {turn.role!r}; {', '.join(sorted(ROLES))} are known")


def _recognised(data: bytes) -> Format | None:
    """The format of a document by its keys. Raises where it is no JSON object."""
    keys = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    if "schema_version" in keys and "steps" in keys:
        return "atif"
    return "sessions" if "turns" in keys else "openai" if "messages" in keys else None


def _files(paths: Sequence[Path]) -> Iterator[tuple[Path, bool]]:
    """Each file, and whether it was named itself."""
    for path in paths:
        if path.is_dir():
            found = sorted(Path(folder) / name for folder, _, names in os.walk(path) for name in names)
            yield from ((file, False) for file in found if file.name.endswith(SUFFIXES) and file.is_file())
        elif path.exists():
            yield path, True
        else:
            raise ConfigError(f"{path} does not exist; name files or folders with recorded sessions")
