"""The gateway's journal as sessions: the calls that were made, in their order, with results and durations.

What user and model said is not in it. The journal of a running server is locked by that server, so a copy is read.
"""

import json
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec

from sglang_paste.errors import ConfigError
from sglang_paste.mine.records import Call, Result, Session, Turn

APPLICATION_ID = 0x50415354
SOURCE = "gateway"
ATTEMPTS = 8
_WAL_HEADER_BYTES = 32
_ROWS = """
SELECT tenant, session, tool, arguments, begun, finished, duration, is_error, truncated, content FROM history
ORDER BY tenant, session, begun, id
"""


class _Row(msgspec.Struct, array_like=True):
    tenant: str
    session: str
    tool: str
    arguments: str
    begun: float
    finished: float
    duration: float
    is_error: bool
    truncated: bool
    content: str


def read(path: Path, note: Callable[[str], None]) -> Iterator[Session]:
    """The sessions of a journal, by tenant and id. Calls that were under way at the same time make one turn.

    `note` hears of each row that is left out. Raises ConfigError for a file that is no journal, or cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="sglang-paste-") as folder:
        try:
            with closing(_open(_snapshot(path, Path(folder)))) as database:
                _check(database, path)
                yield from _sessions(database.execute(_ROWS), note)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(
                f"the journal {path} cannot be read ({error}); name a gateway's journal.sqlite"
            ) from error


def _snapshot(path: Path, folder: Path) -> Path:
    """A consistent copy, also while the file is written to.

    The log is copied last. As long as it was not begun anew meanwhile, it holds every page that a checkpoint may have
    been writing into the file during the copy, so that replaying it makes the copy whole.
    """
    copy = folder / "journal.sqlite"
    log, log_copy = path.with_name(f"{path.name}-wal"), folder / "journal.sqlite-wal"
    for _ in range(ATTEMPTS):
        before = _log_header(log)
        shutil.copyfile(path, copy)
        if not log.exists():
            log_copy.unlink(missing_ok=True)
        else:
            shutil.copyfile(log, log_copy)
        if _log_header(log) == before:
            return copy
    raise OSError("it changes too fast to be copied")


def _log_header(log: Path) -> bytes:
    try:
        with log.open("rb") as file:
            return file.read(_WAL_HEADER_BYTES)
    except FileNotFoundError:
        return b""


def _open(copy: Path) -> sqlite3.Connection:
    database = sqlite3.connect(copy, isolation_level=None)
    database.execute("PRAGMA trusted_schema = OFF")
    return database


def _check(database: sqlite3.Connection, path: Path) -> None:
    application = database.execute("PRAGMA application_id").fetchone()[0]
    if application != APPLICATION_ID:
        raise ConfigError(f"{path} is no journal of ours (application id {application:#x}); name a gateway's journal")
    if not database.execute("SELECT 1 FROM sqlite_schema WHERE name = 'history'").fetchone():
        raise ConfigError(f"the journal {path} has no history of calls; start the server once with this version")


def _sessions(rows: Iterator[tuple[Any, ...]], note: Callable[[str], None]) -> Iterator[Session]:
    for (tenant, session), made in groupby(_checked(rows, note), key=lambda row: (row.tenant, row.session)):
        turns = tuple(turn for together in _overlapping(made) for turn in _turns(together, note))
        yield Session(SOURCE, session, session, turns, tenant)


def _checked(rows: Iterator[tuple[Any, ...]], note: Callable[[str], None]) -> Iterator[_Row]:
    for row in rows:
        try:
            yield msgspec.convert(row, _Row, strict=False)
        except msgspec.ValidationError as error:
            note(f"a call is left out: {error}")


def _overlapping(rows: Iterator[_Row]) -> Iterator[list[_Row]]:
    together: list[_Row] = []
    for row in rows:
        if together and row.begun >= min(other.finished for other in together):
            yield together
            together = []
        together.append(row)
    if together:
        yield together


def _turns(rows: list[_Row], note: Callable[[str], None]) -> Iterator[Turn]:
    calls, results = [], []
    for row in rows:
        try:
            calls.append(Call(row.tool, _object(row.arguments)))
        except (ValueError, RecursionError) as error:
            note(f"a call of {row.tool!r} is left out: {error}")
            continue
        results.append(
            Result(row.tool, row.content, duration_s=row.duration, truncated=row.truncated, is_error=row.is_error)
        )
    if calls:
        yield Turn("assistant", "", tuple(calls))
        begun, finished = min(row.begun for row in rows), max(row.finished for row in rows)
        yield Turn("tool", tool_results=tuple(results), t_start=begun, t_end=finished)


def _object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("its arguments are no JSON object")
    return value
