"""A text in which values are looked for by name, and the words that names are made of."""

import re
from itertools import chain

from sglang_paste.predict.memo import Memo

MAX_KNOWN = 16_384
MAX_WORD_CHARS = 64
_WORDS = bytes(code if code > 127 or chr(code).isalnum() or code == 95 else 32 for code in range(256))
_PARTS = re.compile(r"[A-Z]?[a-z]{2,}|[A-Z]{3,}")


class Passage:
    """A text with its words at hand: a value whose longest word is not among them need not be looked for."""

    __slots__ = ("text", "words")

    def __init__(self, text: str = "") -> None:
        self.text = text
        self.words = frozenset(words_of(text))


def words_of(text: str) -> list[str]:
    """Runs of letters, digits and underscores; beyond ASCII everything counts as a letter."""
    return text.encode("utf-8", "replace").translate(_WORDS).decode("utf-8", "replace").split()


def longest_word(text: str) -> str:
    """The first of the longest words, or nothing."""
    return max(words_of(text), key=len, default="")


def parts_in(text: str) -> list[str]:
    """The parts of all words: `parse`, `url` and `fast` of `parseURLFast` and of `parse_URL_fast`."""
    return list(chain.from_iterable(map(_parts.__getitem__, words_of(text))))


def _parts_of(word: str) -> tuple[str, ...]:
    return tuple(map(str.lower, _PARTS.findall(word[:MAX_WORD_CHARS])))


_parts = Memo(_parts_of, MAX_KNOWN)
