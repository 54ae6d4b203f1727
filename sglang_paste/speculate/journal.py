"""Authoritative calls by their ids, so that none executes twice, and what left the house early."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from sglang_paste.calls import ToolCall
from sglang_paste.execute.base import Outcome


class Begun(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a call may run. fresh: run it, then `finish`. replay: it has run, `outcome` is its result. in_flight: this
    process is at it, wait for that. unknown: it was begun before a crash (or its result is no longer kept) and
    may never run again."""

    kind: Literal["fresh", "replay", "in_flight", "unknown"]
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
    """SQLite in WAL mode; every method is synchronous and takes tens of microseconds."""

    def __init__(self, path: Path, *, clock: Callable[[], float]) -> None:
        """Open or create the file (mode 0600). Raises ConfigError, naming it, where it is damaged, foreign, newer, or
        open in another process."""

    def begin(self, call: ToolCall) -> Begun:
        """Before an authoritative call runs. A call without call id is always fresh and leaves no trace. Raises CallError
        where the id belongs to a call of another tool or other arguments, JournalError where nothing can be written."""
        raise NotImplementedError

    def finish(self, call: ToolCall, outcome: Outcome) -> None:
        """The call has run; a failure is an outcome like any other and is replayed, too."""

    def release(self, call: ToolCall) -> None:
        """A call that was begun did not start (no executor, cancelled in the queue): its id may be used again."""

    def disclose(self, disclosure: Disclosure) -> None:
        """Log an early call that is seen outside, before it leaves."""

    def disclosures(self, limit: int = 100) -> list[Disclosure]:
        """The latest ones, newest first."""
        raise NotImplementedError

    def close(self) -> None:
        """Idempotent."""
