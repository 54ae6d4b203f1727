"""Where something may have become complete: brackets and values, with strings skipped. A hint, not a parser."""

import re
from collections.abc import Iterator
from typing import NamedTuple

_JSON = re.compile(r'[\\"{}\[\],:]')
_PYTHON = re.compile(r"[\\\"'(){}\[\],:=]")
_MARKERS = re.compile(r"[>\]]")
_ASSIGNS = frozenset(":=")
_QUOTES = frozenset("\"'")
_OPENERS = frozenset("([{")
_CLOSERS = frozenset(")]}")


class Mark(NamedTuple):
    """A place where the text could be completed.

    `end` is the index after the letter, `depth` the number of open brackets there. The letter is an opening or closing
    bracket, `"` for the end of a string value, `,` after any other value, or `>`.
    """

    end: int
    letter: str
    depth: int

    @property
    def opens(self) -> bool:
        return self.letter in _OPENERS

    @property
    def closes(self) -> bool:
        return self.letter in _CLOSERS


class Scanner:
    """Reads a growing text once, from `start` on."""

    def __init__(self, style: str, start: int) -> None:
        self._letters = {"json": _JSON, "python": _PYTHON}.get(style, _MARKERS)
        self._at = start
        self._quote = ""
        self._before = ""
        self.depth = 0

    def feed(self, text: str) -> Iterator[Mark]:
        """The marks of what was added since the last call."""
        while found := self._letters.search(text, self._at):
            letter = found.group()
            self._at = found.end()
            if self._step(letter):
                yield Mark(self._at, '"' if letter == "'" else letter, self.depth)
        self._at = max(self._at, len(text))

    def _step(self, letter: str) -> bool:
        """Take in one letter; is it a mark?"""
        if self._quote:
            return self._in_string(letter)
        if letter in _QUOTES:
            self._quote = letter
            return False
        before, self._before = self._before, letter
        if letter in _OPENERS:
            self.depth += 1
        elif letter in _CLOSERS:
            self.depth -= 1
        elif letter == ",":
            return before in _ASSIGNS
        return letter not in _ASSIGNS and letter != "\\"

    def _in_string(self, letter: str) -> bool:
        if letter == "\\":
            # What is escaped may not be there yet, so it is skipped by position.
            self._at += 1
        elif letter == self._quote:
            self._quote = ""
            before, self._before = self._before, letter
            return before in _ASSIGNS
        return False
