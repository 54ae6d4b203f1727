"""What was learned, kept over restarts in one SQLite file of mode 0600."""

import os
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import msgspec

from sglang_paste.errors import ConfigError

APPLICATION_ID = 0x50415354
SCHEMA = 1
MAX_ROWS = 20_000
_TABLE = """
CREATE TABLE IF NOT EXISTS learned (
    tenant TEXT NOT NULL, kind TEXT NOT NULL, key TEXT NOT NULL, used REAL NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (tenant, kind, key)
) WITHOUT ROWID
"""
_UPSERT = """
INSERT INTO learned (tenant, kind, key, used, body) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (tenant, kind, key) DO UPDATE SET used = excluded.used, body = excluded.body
"""


class Row(msgspec.Struct, frozen=True):
    """One learned record; a `body` of None deletes it."""

    tenant: str
    kind: str
    key: str
    body: bytes | None


class Store:
    """The file, opened or made. Calls block for some milliseconds and may come from any thread."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigError where the file is foreign, newer, damaged, or cannot be used."""
        self._lock = threading.Lock()
        self.path = path
        try:
            _claim_file(path)
            self._database = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"{path} cannot be opened ({error}); give a state directory of your own") from error
        try:
            self._prepare()
        except sqlite3.Error as error:
            self._database.close()
            raise self.damaged(str(error)) from error
        except ConfigError:
            self._database.close()
            raise

    def load(self) -> Iterator[Row]:
        """All rows, those used last at the end."""
        query = "SELECT * FROM (SELECT * FROM learned ORDER BY used DESC LIMIT ?) ORDER BY used"
        try:
            with self._lock, closing(self._database.execute(query, (MAX_ROWS,))) as cursor:
                rows = cursor.fetchall()
        except sqlite3.Error as error:
            raise self.damaged(str(error)) from error
        for tenant, kind, key, _, body in rows:
            yield Row(tenant, kind, key, body)

    def write(self, rows: Sequence[Row]) -> None:
        """Write or delete all rows in one transaction. Raises sqlite3.Error, and then nothing is written."""
        now = time.time()
        with self._lock, self._database:
            self._database.execute("BEGIN IMMEDIATE")
            for row in rows:
                if row.body is None:
                    key = (row.tenant, row.kind, row.key)
                    self._database.execute("DELETE FROM learned WHERE tenant = ? AND kind = ? AND key = ?", key)
                else:
                    self._database.execute(_UPSERT, (row.tenant, row.kind, row.key, now, row.body))

    def close(self) -> None:
        """Close the file. Idempotent."""
        with self._lock:
            self._database.close()

    def damaged(self, found: str) -> ConfigError:
        """The refusal of a file that cannot be read."""
        return ConfigError(f"{self.path} is damaged ({found}); move it away to start with nothing learned")

    def _prepare(self) -> None:
        database = self._database
        application = database.execute("PRAGMA application_id").fetchone()[0]
        version = database.execute("PRAGMA user_version").fetchone()[0]
        tables = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if tables and application != APPLICATION_ID:
            raise ConfigError(f"{self.path} is some other program's database; move it away or give another directory")
        if version > SCHEMA:
            raise ConfigError(
                f"{self.path} was written by a newer version (schema {version}, this one knows {SCHEMA}); "
                "upgrade or move it away"
            )
        found = database.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise self.damaged(found)
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        if not tables:
            with database:
                database.execute("BEGIN IMMEDIATE")
                database.execute(_TABLE)
                database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                database.execute(f"PRAGMA user_version = {SCHEMA}")


def _claim_file(path: Path) -> None:
    """Make the file where it is not there; it must be a plain file of ours, and only we may read it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
            raise PermissionError("it is not a plain file of this user")
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)
