"""When to look: most tokens cannot change what a detector says, and are not even decoded."""

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]

OPENING = 1
INSIDE = 2
CLOSING = 4

_LETTERS = {
    "json": ('"{}[],>', "}]>"),
    "python": ("\"'(){}[],", ")]"),
    "markup": (">", ">"),
    "opaque": ("}])>", "}])>"),
}
_OPENING_LETTERS = ">])}|[{(=\n"


class Vocabulary:
    """Which tokens of a vocabulary matter in which phase, learned as they come."""

    def __init__(self, decode: Decode, style: str) -> None:
        inside, closing = _LETTERS[style]
        self._decode = decode
        self._letters = (
            (OPENING, frozenset(_OPENING_LETTERS)),
            (INSIDE, frozenset(inside)),
            (CLOSING, frozenset(closing)),
        )
        self.flags: dict[int, int] = {}

    def learn(self, token: int) -> int:
        """The phases in which the token matters, as bits; later found in `flags`."""
        text = self._decode([token])
        flags = sum(bit for bit, letters in self._letters if not letters.isdisjoint(text))
        self.flags[token] = flags
        return flags


class Reader:
    """Text of committed tokens, as the detokenizer makes it: decoded after the tokens before it, and held back from
    where it ends within a character."""

    def __init__(self, decode: Decode, context: Sequence[int] = ()) -> None:
        self._decode = decode
        self._tokens = list(context)
        self._read = len(self._tokens)
        self._given = 0

    def read(self, tokens: Sequence[int], *, last: bool = False) -> str:
        """What the tokens add; with `last` also what was held back."""
        self._tokens.extend(tokens)
        if self._read == len(self._tokens):
            return ""
        known = self._decode(self._tokens[: self._read]) if self._read else ""
        text = self._decode(self._tokens)[len(known) :]
        whole = text if last else text.rstrip("\ufffd")
        new, self._given = whole[self._given :], max(len(whole), self._given)
        if text and len(whole) == len(text):
            del self._tokens[: self._read]
            self._read, self._given = len(self._tokens), 0
        return new
