"""Where a text may be cut so that its pieces tokenise as the whole does: at tokens that are matched before all else."""

import re
from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec


class Cut(NamedTuple):
    """A place: the byte of the text and the index of the token at which a token that may be cut at begins."""

    byte: int
    token: int


class Marks:
    """The cuts of a text, in order."""

    def __init__(self) -> None:
        self._bytes = array("q")
        self._ends = array("q")
        self._tokens = array("q")

    def __len__(self) -> int:
        return len(self._tokens)

    def add(self, cut: Cut, size: int) -> None:
        """Append a cut whose token is `size` bytes long."""
        self._bytes.append(cut.byte)
        self._ends.append(cut.byte + size)
        self._tokens.append(cut.token)

    def within(self, size: int) -> Cut | None:
        """The last cut whose whole token lies in the first `size` bytes."""
        count = bisect_right(self._ends, size)
        return Cut(self._bytes[count - 1], self._tokens[count - 1]) if count else None

    def before(self, cut: Cut) -> "Marks":
        """Those that lie before a cut."""
        count = bisect_right(self._tokens, cut.token - 1)
        marks = Marks()
        marks._bytes, marks._ends, marks._tokens = self._bytes[:count], self._ends[:count], self._tokens[:count]
        return marks


class Added(msgspec.Struct, frozen=True):
    """A token the tokenizer looks for in the raw text. Only one that stands alone (`single` is false) can be a cut."""

    text: str
    token: int
    single: bool = False


class MarkFinder:
    """Finds the cuts of a text and of its tokens."""

    def __init__(self, added: Sequence[Added]) -> None:
        self._tokens = {item.text.encode(): item.token for item in added if item.text}
        texts = [item.text for item in added if item.text]
        self.cuts: Mapping[int, bytes] = {
            item.token: item.text.encode()
            for item in added
            if item.text and not item.single and cuts_at(item.text, texts)
        }
        # The longest first: what the alternation finds is then the longest match at the leftmost place.
        alternation = b"|".join(re.escape(text) for text in sorted(self._tokens, key=len, reverse=True))
        self._pattern = re.compile(alternation) if alternation else None
        self._known = frozenset(self._tokens.values())

    def find(self, text: bytes, tokens: Sequence[int], start: Cut, marks: Marks) -> bool:
        """Append the cuts of a text that begins at `start` to `marks`; false, and none, where text and tokens differ in
        the added tokens they hold."""
        if self._pattern is None:
            return False
        known = self._known
        places = [place for place, token in enumerate(tokens) if token in known]
        found = [(match.start(), match.group()) for match in self._pattern.finditer(text)]
        if [tokens[place] for place in places] != [self._tokens[content] for _, content in found]:
            return False
        for place, (at, content) in zip(places, found, strict=True):
            if tokens[place] in self.cuts:
                marks.add(Cut(start.byte + at, start.token + place), len(content))
        return True


def cuts_at(text: str, others: Sequence[str]) -> bool:
    """Whether an added token is found wherever its text stands: none of the others contains it, and none can begin
    before it and end inside it."""
    heads = tuple(text[:size] for size in range(1, len(text) + 1))
    return not any(other != text and (text in other or other[1:].endswith(heads)) for other in others)
