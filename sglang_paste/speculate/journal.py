"""Authoritative calls by their ids, so that none executes twice; those of each session, to be mined; and what left the
house early."""

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec

from sglang_paste.calls import ToolCall, call_key, canonical
from sglang_paste.errors import BadArguments, CallError, ConfigError, JournalError
from sglang_paste.execute.base import Outcome

APPLICATION_ID = 0x50415354
SCHEMA_VERSION = 2
SCHEMA = """
CREATE TABLE calls (
    id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, call_id TEXT NOT NULL, session TEXT NOT NULL,
    key TEXT NOT NULL, begun REAL NOT NULL, finished REAL, outcome BLOB, UNIQUE (tenant, call_id, session)
) STRICT;
CREATE INDEX kept ON calls (id) WHERE outcome IS NOT NULL;
CREATE TABLE disclosures (
    id INTEGER PRIMARY KEY, time REAL NOT NULL, tenant TEXT NOT NULL, session TEXT NOT NULL, tool TEXT NOT NULL,
    arguments TEXT NOT NULL, source TEXT NOT NULL, probability REAL NOT NULL
) STRICT;
"""
HISTORY = """
CREATE TABLE history (
    id INTEGER PRIMARY KEY, tenant TEXT NOT NULL, session TEXT NOT NULL, tool TEXT NOT NULL, arguments TEXT NOT NULL,
    begun REAL NOT NULL, finished REAL NOT NULL, duration REAL NOT NULL, is_error INTEGER NOT NULL,
    truncated INTEGER NOT NULL, content TEXT NOT NULL
) STRICT;
"""
FIND = """
SELECT id, key, outcome FROM calls WHERE tenant = ?1 AND call_id = ?2 AND (session = ?3 OR session = '' OR ?3 = '')
ORDER BY session = ?3 DESC, key = ?4 DESC LIMIT 1
"""
BEGIN = "INSERT INTO calls (tenant, call_id, session, key, begun) VALUES (?, ?, ?, ?, ?)"
FINISH = "UPDATE calls SET finished = ?, outcome = ? WHERE id = ?"
DISCLOSE = """
INSERT INTO disclosures (time, tenant, session, tool, arguments, source, probability) VALUES (?, ?, ?, ?, ?, ?, ?)
"""
RECORD = """
INSERT INTO history (tenant, session, tool, arguments, begun, finished, duration, is_error, truncated, content)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
DISCLOSED = (
    "SELECT time, tenant, session, tool, arguments, source, probability FROM disclosures ORDER BY id DESC LIMIT ?"
)

MAX_CALLS = 100_000
MAX_AGE_S = 7 * 24 * 3600.0
MAX_OUTCOMES_BYTES = 128 * 1024 * 1024
MAX_DISCLOSURES = 100_000
MAX_HISTORY = 50_000
MAX_HISTORY_CHARS = 8192
MAX_NAME_BYTES = 1024
PRUNE_EVERY = 256
LOCK_WAIT_S = 1.0


class Begun(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a call may run. fresh: run it, then `finish`. replay: it has run, `outcome` is its result.
    in_flight: this process is at it, wait for that. unknown: it was begun before a crash (or its result is no
    longer kept) and may never run again. `id` is the same for every request that means the same call (0 without call
    id)."""

    kind: Literal["fresh", "replay", "in_flight", "unknown"]
    id: int = 0
    outcome: Outcome | None = None


class Disclosure(msgspec.Struct, frozen=True, kw_only=True):
    """One early call that was seen outside. `time` is seconds since 1970, `arguments` canonical JSON."""

    time: float
    tenant: str
    session: str
    tool: str
    arguments: str
    source: str
    probability: float


class Journal:
    """SQLite in WAL mode, held by one process at a time; every method is synchronous and takes tens of microseconds
    (a result of a megabyte milliseconds).

    What was written survives the death of the process at any moment (synchronous = NORMAL leaves it with the operating
    system); a loss of power can take the last seconds. A call id is good for one call: of its session where one is
    named, else of the tenant. The latest `MAX_CALLS` ids of the last `MAX_AGE_S` are remembered, and
    `MAX_OUTCOMES_BYTES` of their results; an id whose result is gone is `unknown` from then on.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        """Open or create the file (mode 0600). Raises ConfigError, naming it, where it is damaged, foreign, newer, or
        open in another process. `clock` gives seconds since 1970."""
        self._path = path
        self._clock = clock
        self._open: dict[tuple[str, str, str], int] = {}
        self._begun = 0
        self._db = _open(path)
        self._bytes = int(self._one("SELECT coalesce(sum(length(outcome)), 0) FROM calls WHERE outcome IS NOT NULL")[0])

    def begin(self, call: ToolCall) -> Begun:
        """Before an authoritative call runs. A call without call id is always fresh and leaves no trace.

        Raises CallError where the id belongs to a call of another tool or other arguments, JournalError where
        nothing can be written.
        """
        if call.call_id is None:
            return Begun(kind="fresh")
        slot, key = _slot(call), call_key(call.tool, call.arguments)
        with self._errors():
            found = self._db.execute(FIND, (*slot, key)).fetchone()
            if found is None:
                row = self._db.execute(BEGIN, (*slot, key, self._clock())).lastrowid or 0
                self._open[slot] = row
                self._prune()
                return Begun(kind="fresh", id=row)
        row, known, outcome = found
        if known != key:
            raise CallError(f"call id {call.call_id!r} belongs to another call; give each call an id of its own")
        if row in self._open.values():
            return Begun(kind="in_flight", id=row)
        if outcome is None:
            return Begun(kind="unknown", id=row)
        return Begun(kind="replay", id=row, outcome=_decode(outcome))

    def finish(self, call: ToolCall, outcome: Outcome) -> None:
        """The call has run; a failure is an outcome like any other and is replayed, too.

        Raises JournalError where the outcome cannot be written: the caller has it, a retry will not.
        """
        if call.call_id is None:
            return
        row, data = self._close(call), _encode(outcome)
        with self._errors():
            self._db.execute(FINISH, (self._clock(), data, row))
            self._bytes += len(data or b"")
            self._forget_outcomes()

    def release(self, call: ToolCall) -> None:
        """A call that was begun did not start (no executor, cancelled in the queue): its id may be used again."""
        if call.call_id is None:
            return
        row = self._close(call)
        with self._errors():
            self._db.execute("DELETE FROM calls WHERE id = ?", (row,))

    def record(self, call: ToolCall, outcome: Outcome, waited: float) -> None:
        """Keep a call that was made in a known session, so that patterns can be mined from it: the latest
        `MAX_HISTORY`, of each result the first `MAX_HISTORY_CHARS`. `waited` is how long ago it was asked for, in
        seconds. A call is not kept where its arguments are longer, or JSON or Unicode cannot say it."""
        if call.session is None:
            return
        content = outcome.content[:MAX_HISTORY_CHARS]
        failed, cut = outcome.is_error or outcome.failure is not None, outcome.truncated or content != outcome.content
        now = self._clock()
        try:
            arguments = canonical(call.arguments)
            if len(arguments) > MAX_HISTORY_CHARS:
                return
            row = (call.tenant, call.session, call.tool, arguments, now - waited, now, outcome.duration, failed, cut)
            with self._errors():
                self._db.execute(RECORD, (*row, content))
                self._db.execute("DELETE FROM history WHERE id <= last_insert_rowid() - ?", (MAX_HISTORY,))
        except (BadArguments, UnicodeEncodeError):
            return

    def disclose(self, disclosure: Disclosure) -> None:
        """Log an early call that is seen outside, before it leaves."""
        with self._errors():
            self._db.execute(DISCLOSE, msgspec.structs.astuple(disclosure))
            self._db.execute("DELETE FROM disclosures WHERE id <= last_insert_rowid() - ?", (MAX_DISCLOSURES,))

    def disclosures(self, limit: int = 100) -> list[Disclosure]:
        """The latest ones, newest first."""
        with self._errors():
            rows = self._db.execute(DISCLOSED, (limit,)).fetchall()
        names = Disclosure.__struct_fields__
        return [Disclosure(**dict(zip(names, row, strict=True))) for row in rows]

    def close(self) -> None:
        """Idempotent."""
        self._db.close()

    def _close(self, call: ToolCall) -> int:
        try:
            return self._open.pop(_slot(call))
        except KeyError:
            raise JournalError(f"call id {call.call_id!r} was not begun here, or is finished; begin it first") from None

    def _prune(self) -> None:
        """Forget the oldest ids, but none whose call is at work."""
        self._begun += 1
        if self._begun % PRUNE_EVERY:
            return
        oldest = self._db.execute("SELECT id, begun FROM calls ORDER BY id LIMIT ?", (2 * PRUNE_EVERY,)).fetchall()
        last = int(self._one("SELECT max(id) FROM calls")[0])
        busy, now = set(self._open.values()), self._clock()
        gone = [(row,) for row, begun in oldest if row <= last - MAX_CALLS or begun < now - MAX_AGE_S]
        for (row,) in gone:
            if row not in busy:
                length = self._one("SELECT coalesce(length(outcome), 0) FROM calls WHERE id = ?", row)[0]
                self._db.execute("DELETE FROM calls WHERE id = ?", (row,))
                self._bytes -= int(length)

    def _forget_outcomes(self) -> None:
        while self._bytes > MAX_OUTCOMES_BYTES:
            row, length = self._one(
                "SELECT id, length(outcome) FROM calls WHERE outcome IS NOT NULL ORDER BY id LIMIT 1"
            )
            self._db.execute("UPDATE calls SET outcome = NULL WHERE id = ?", (row,))
            self._bytes -= int(length)

    def _one(self, sql: str, *values: Any) -> tuple[Any, ...]:
        row: tuple[Any, ...] = self._db.execute(sql, values).fetchone()
        return row

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise JournalError(
                f"the journal {self._path} cannot be used ({error}); check the disk, then restart"
            ) from error


def _open(path: Path) -> sqlite3.Connection:
    try:
        _create(path)
        db = sqlite3.connect(path, isolation_level=None, timeout=LOCK_WAIT_S)
    except (OSError, sqlite3.Error) as error:
        raise ConfigError(f"the journal {path} cannot be opened ({error}); check its folder and its owner") from error
    try:
        _prepare(db, path)
    except sqlite3.Error as error:
        db.close()
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
            raise ConfigError(f"the journal {path} is in use by another process; stop that one first") from error
        raise ConfigError(
            f"the journal {path} is damaged ({error}); move it away to start a new one without what it knows"
        ) from error
    except ConfigError:
        db.close()
        raise
    return db


def _create(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists():
        path.chmod(0o600)
    else:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    db.execute("PRAGMA locking_mode = EXCLUSIVE")
    application = db.execute("PRAGMA application_id").fetchone()[0]
    version = db.execute("PRAGMA user_version").fetchone()[0]
    empty = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
    if not (application == APPLICATION_ID or (empty and application == 0 and version == 0)):
        raise ConfigError(f"the file {path} is no journal of ours (application id {application:#x}); name another one")
    if version > SCHEMA_VERSION:
        raise ConfigError(
            f"the journal {path} has version {version}, newer than {SCHEMA_VERSION}; use the newer program"
        )
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("PRAGMA journal_size_limit = 16777216")
    if version < SCHEMA_VERSION:
        marks = f"PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION};"
        tables = SCHEMA + HISTORY if version == 0 else HISTORY
        db.executescript(f"BEGIN IMMEDIATE; {tables} {marks} COMMIT;")
    else:
        db.execute("BEGIN IMMEDIATE")  # takes the lock, which the exclusive mode then keeps
        db.execute("COMMIT")
    found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    if found != "ok":
        raise sqlite3.DatabaseError(found)


def _slot(call: ToolCall) -> tuple[str, str, str]:
    slot = (call.tenant, call.call_id or "", call.session or "")
    for name in slot:
        try:
            size = len(name.encode())
        except UnicodeEncodeError as error:
            raise CallError("the call id or session is not valid Unicode; send another one") from error
        if size > MAX_NAME_BYTES:
            raise CallError(f"the call id or session takes {size} bytes; the limit is {MAX_NAME_BYTES}")
    return slot


def _encode(outcome: Outcome) -> bytes | None:
    """The outcome as JSON; None where it cannot be said, and then it is not replayed."""
    try:
        return msgspec.json.encode(outcome)
    except UnicodeEncodeError:  # a lone surrogate, which only the slower encoder escapes
        return json.dumps(msgspec.to_builtins(outcome)).encode()
    except (TypeError, ValueError, RecursionError):
        return None


def _decode(data: bytes) -> Outcome:
    return msgspec.convert(json.loads(data), Outcome)
