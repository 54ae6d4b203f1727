"""The words that names are made of."""

import re
from itertools import chain

from sglang_paste.predict.memo import Memo

MAX_KNOWN = 16_384
MAX_WORD_CHARS = 64
_WORDS = bytes(code if code > 127 or chr(code).isalnum() or code == 95 else 32 for code in range(256))
_PARTS = re.compile(r"[A-Z]?[a-z]{2,}|[A-Z]{3,}")


def parts_in(text: str) -> list[str]:
    """The parts of all words: `parse`, `url` and `fast` of `parseURLFast` and of `parse_URL_fast`."""
    words = text.encode("utf-8", "replace").translate(_WORDS).decode("utf-8", "replace").split()
    return list(chain.from_iterable(map(_parts.__getitem__, words)))


def _parts_of(word: str) -> tuple[str, ...]:
    return tuple(map(str.lower, _PARTS.findall(word[:MAX_WORD_CHARS])))


_parts = Memo(_parts_of, MAX_KNOWN)
