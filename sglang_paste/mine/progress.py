"""How far a long reading is, on standard error."""

import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO

from sglang_paste.mine.read import Reader
from sglang_paste.mine.records import Session

MAX_FAULTS = 20


class Progress:
    """One line that is written over on a terminal, and a line every few seconds elsewhere. Quiet, it says nothing."""

    def __init__(self, *, quiet: bool = False, out: TextIO | None = None) -> None:
        self._out = sys.stderr if out is None else out
        self._quiet = quiet
        self._terminal = self._out.isatty()
        self._every = 0.2 if self._terminal else 5.0
        self._next = time.monotonic() + self._every
        self._faults = 0

    def fault(self, line: str) -> None:
        """Report what was passed over; after the first few only the summary counts them."""
        self._faults += 1
        if self._faults <= MAX_FAULTS:
            print(line, file=self._out)
        elif self._faults == MAX_FAULTS + 1:
            print("more such lines are counted and not shown", file=self._out)

    def reading(self, reader: Reader, what: str) -> Iterator[Session]:
        """The reader's sessions; how many, and how much of the input they took."""
        for session in reader:
            self._show(lambda: f"{what}: {reader.counts.sessions:,} sessions, {_share(reader)} read")
            yield session
        self.end()

    def working(self, what: str, share: float) -> None:
        """A share from 0 to 1 of something is done."""
        self._show(lambda: f"{what}: {100 * share:.0f} %")

    def end(self) -> None:
        """Leave the terminal's line."""
        if self._terminal and not self._quiet:
            print("\r\x1b[K", end="", file=self._out, flush=True)

    def _show(self, text: Callable[[], str]) -> None:
        if self._quiet or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._every
        if self._terminal:
            print(f"\r\x1b[K{text()}", end="", file=self._out, flush=True)
        else:
            print(text(), file=self._out, flush=True)


def _share(reader: Reader) -> str:
    return f"{100 * reader.bytes_read / reader.bytes_total:.0f} %" if reader.bytes_total else "all"
