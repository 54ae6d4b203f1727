"""What the predictors have learned: in memory, bounded, and written to the store in batches."""

import json
import logging
import sqlite3
from pathlib import Path
from typing import Literal

import anyio.to_thread
import msgspec

from sglang_paste.calls import TenantId
from sglang_paste.predict.follow import Context
from sglang_paste.predict.learn import Bounded
from sglang_paste.predict.pattern import MAX_CONTEXTS, ContextKey, Place
from sglang_paste.predict.store import Row, Store
from sglang_paste.predict.stream import MAX_TOOLS, ToolKey, ToolRecord

BATCH = 200
_LOG = logging.getLogger(__name__)

Kind = Literal["tool", "context"]
Key = ToolKey | ContextKey


class Memory:
    """The records of all tools and contexts, and which of them the file does not have yet.

    Raises ConfigError where `patterns.sqlite` in `state_dir` cannot be used; with None nothing is kept.
    """

    def __init__(self, state_dir: str | None) -> None:
        self.records: Bounded[ToolKey, ToolRecord] = Bounded(MAX_TOOLS, self._evicted)
        self.contexts: Bounded[ContextKey, Context] = Bounded(MAX_CONTEXTS, self._evicted)
        self.failed_saves = 0
        self._dirty: dict[Key, None] = {}
        self._store = None if state_dir is None else Store(Path(state_dir) / "patterns.sqlite")
        if self._store is not None:
            self._load(self._store)

    def changed(self, key: Key) -> None:
        """The record of this key was learned from."""
        if self._store is not None:
            self._dirty[key] = None

    async def save(self) -> None:
        """Write the `BATCH` rows that wait longest: taken here, written in a thread."""
        if self._store is not None and self._dirty:
            keys, rows = self._take(BATCH)
            self._note(keys, await anyio.to_thread.run_sync(_write, self._store, rows))

    def close(self) -> None:
        """Write all and close the file. Idempotent."""
        if self._store is None:
            return
        if self._dirty:
            keys, rows = self._take(len(self._dirty))
            self._note(keys, _write(self._store, rows))
        self._store.close()
        self._store = None

    def _evicted(self, key: Key, record: ToolRecord | Context) -> None:
        self.changed(key)

    def _take(self, limit: int) -> tuple[list[Key], list[Row]]:
        keys = list(self._dirty)[:limit]
        for key in keys:
            del self._dirty[key]
        return keys, [self._row(key) for key in keys]

    def _note(self, keys: list[Key], error: sqlite3.Error | None) -> None:
        if error is None:
            return
        self.failed_saves += 1
        _LOG.warning("what was learned could not be saved (%s); it is kept in memory and tried again", error)
        for key in keys:
            self._dirty.setdefault(key)

    def _row(self, key: Key) -> Row:
        tenant, what = key
        record: ToolRecord | Context | None
        if isinstance(what, str):
            record = self.records.get((tenant, what))
            kind: Kind = "tool"
        else:
            record = self.contexts.get((tenant, what))
            kind = "context"
        body = None if record is None else msgspec.json.encode(record)
        return Row(tenant, kind, what if isinstance(what, str) else json.dumps(what), body)

    def _load(self, store: Store) -> None:
        try:
            for row in store.load():
                self._take_in(row)
        except (msgspec.DecodeError, UnicodeDecodeError, TypeError) as error:
            store.close()
            raise store.damaged(str(error)) from error
        except BaseException:
            store.close()
            raise

    def _take_in(self, row: Row) -> None:
        tenant = TenantId(row.tenant)
        if row.body is None or row.kind not in ("tool", "context") or not isinstance(row.key, str):
            raise TypeError(f"a row of kind {row.kind!r}")
        if row.kind == "tool":
            record = msgspec.json.decode(row.body, type=ToolRecord)
            self.records.use((tenant, row.key), lambda: record)
        else:
            place: Place = msgspec.json.decode(row.key, type=tuple[str, bool])
            context = msgspec.json.decode(row.body, type=Context)
            self.contexts.use((tenant, place), lambda: context)


def _write(store: Store, rows: list[Row]) -> sqlite3.Error | None:
    try:
        store.write(rows)
    except sqlite3.Error as error:
        return error
    return None
