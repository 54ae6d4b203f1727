"""Prompts as the tokens of an earlier prompt, the tokens of its answer, and what is new."""

import logging
from array import array
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple, Protocol

from sglang_paste.session.kept import Kept, KeptPrompts, keys_of, shared
from sglang_paste.session.marks import Added, Cut, MarkFinder, Marks

logger = logging.getLogger(__name__)

# A cut inside an answer is looked for at so many of its last tokens that still agree with the text.
_STEPS = 16
_PROBES = ("", "a", " a ", "\n", "\n\nA\n", "  é1.", "▁_ \t", "了 🙂\n")


class Codec(Protocol):
    """A tokenizer."""

    @property
    def added(self) -> Sequence[Added]:
        """The tokens it looks for in the raw text."""

    @property
    def lead(self) -> Sequence[int]:
        """The tokens it puts before every prompt."""

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without the lead."""

    def spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The same, with the characters each token stands for."""

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones included."""


class Prompt(array):  # type: ignore[type-arg]
    """A prompt's tokens (64 bit), and where they are kept."""

    kept: Kept | None = None

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return array, ("q", self.tolist())


class Joined(NamedTuple):
    """A prompt: all its tokens, and where what was tokenised anew begins. `answer` is the one it continues with."""

    tokens: "array[int]"
    cut: Cut
    answer: "array[int] | None" = None


class Counts:
    """What became of prompts, by outcome; how many of their tokens were kept and how many made; answers, by fate."""

    def __init__(self) -> None:
        self.prompts: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()

    def values(self) -> Mapping[tuple[str, str], int]:
        """All of them by name and label."""
        named = {"prompts": self.prompts, "tokens": self.tokens, "answers": self.answers}
        return {(name, label): count for name, counter in named.items() for label, count in counter.items()}


class DeltaTokenizer:
    """Tokenises what a prompt adds to one that is kept.

    The tokens always decode to the text that was asked for. Without answers they equal those of the whole text; an
    answer's own tokens stay as the model made them. Thread-safe.
    """

    def __init__(self, codec: Codec, prompts: KeptPrompts, counts: Counts) -> None:
        self._codec = codec
        self._finder = MarkFinder(codec.added)
        self._prompts = prompts
        self._counts = counts
        self._proven: dict[int, bool] = {}

    def extend(self, scope: Hashable, text: str) -> Prompt | None:
        """The tokens of a prompt that shares its beginning with one of the same scope that is kept, or None."""
        with self._prompts.lock:
            try:
                data = text.encode()
                keys = keys_of(scope, data)
                found = self._prompts.find(scope, data, keys)
                if found is None:
                    self._counts.prompts["new"] += 1
                    return None
                if len(found[0].text) == found[1] == len(data):
                    return self._again(found[0])
                parts = self._join(found[0], found[1], data)
                if parts is None:
                    self._counts.prompts["no_cut"] += 1
                    return None
                return self._next(scope, data, keys, found, parts)
            except Exception:
                self._fail()
                return None

    def keep(self, scope: Hashable, text: str, tokens: Sequence[int]) -> Prompt:
        """Keep a prompt of which all was tokenised, for those that extend it."""
        prompt = Prompt("q", tokens)
        with self._prompts.lock:
            try:
                self._counts.tokens["made"] += len(prompt)
                self._first(scope, text.encode(), prompt)
            except Exception:
                self._fail()
        return prompt

    def _again(self, kept: Kept) -> Prompt:
        self._counts.prompts["repeated"] += 1
        self._counts.tokens["kept"] += len(kept.tokens)
        prompt = Prompt("q", kept.tokens)
        prompt.kept = kept
        kept.pending += 1
        return prompt

    def _first(self, scope: Hashable, data: bytes, tokens: Prompt) -> None:
        lead, marks = len(self._codec.lead), Marks()
        if tokens[:lead] == array("q", self._codec.lead) and self._finder.find(
            data, tokens[lead:], Cut(0, lead), marks
        ):
            self._keep(Kept(scope, data, tokens[:], marks), keys_of(scope, data), tokens)
        else:
            self._counts.prompts["unmarked"] += 1

    def _fail(self) -> None:
        self._counts.prompts["error"] += 1
        logger.exception("a prompt is tokenised as a whole")

    def _next(self, scope: Hashable, data: bytes, keys: list[int], found: tuple[Kept, int], parts: Joined) -> Prompt:
        before, common = found
        extends = common == len(before.text)
        self._counts.prompts["extended" if extends else "branched"] += 1
        self._counts.tokens["kept"] += parts.cut.token
        self._counts.tokens["made"] += len(parts.tokens) - parts.cut.token
        prompt = Prompt("q", parts.tokens)
        marks = before.marks.before(parts.cut)
        rest = parts.tokens[parts.cut.token :]
        if self._finder.find(data[parts.cut.byte :], rest, parts.cut, marks):
            self._keep(Kept(scope, data, parts.tokens, marks), keys, prompt)
            if extends:
                self._prompts.take(before, parts.answer or next(iter(before.answers), None))
        return prompt

    def _keep(self, kept: Kept, keys: list[int], prompt: Prompt) -> None:
        prompt.kept = kept
        kept.pending = 1
        self._prompts.add(kept, keys)

    def _join(self, kept: Kept, common: int, data: bytes) -> Joined | None:
        if common == len(kept.text) and kept.answers:
            parts = self._continue(kept, data)
            if parts is not None:
                return parts
        cut = kept.marks.within(common)
        if cut is None:
            return None
        return self._cut(kept, cut, array("q"), kept.tokens[cut.token], data)

    def _cut(self, kept: Kept, cut: Cut, more: "array[int]", token: int, data: bytes) -> Joined | None:
        """The tokens of `kept` up to a cut, `more`, and those of the text from the cut on, `token` first."""
        rest = self._codec.encode(data[cut.byte :].decode()) if self._is_proven(token) else ()
        if not rest or rest[0] != token:
            return None
        tokens = kept.tokens[: cut.token]
        tokens.extend(more)
        place = len(tokens)
        tokens.extend(rest)
        return Joined(tokens, Cut(cut.byte, place))

    def _continue(self, kept: Kept, data: bytes) -> Joined | None:
        """The prompt, the answer of which most comes back in `data`, and the rest."""
        cut = kept.marks.within(len(kept.text))
        if cut is None:
            return None
        rest, head = data[cut.byte :].decode(), kept.tokens[cut.token :]
        opening = self._codec.decode(head)
        if opening != kept.text[cut.byte :].decode():
            self._counts.answers["undecodable"] += 1
            return None
        said = [(answer, self._codec.decode(head + answer)) for answer in kept.answers]
        answer, text = max(said, key=lambda item: _common(item[1], rest))
        last, size = answer[-1], len(text)
        closing = self._finder.cuts.get(last, b"").decode()
        if closing and rest.startswith(text) and text.endswith(closing):
            byte = cut.byte + len(text[: size - len(closing)].encode())
            parts = self._cut(kept, Cut(byte, len(kept.tokens)), answer[:-1], last, data)
            if parts is not None:
                self._counts.answers["kept"] += 1
                return parts._replace(answer=answer)
        return self._splice(kept, cut, answer, rest, len(opening))

    def _splice(self, kept: Kept, cut: Cut, answer: "array[int]", rest: str, opening: int) -> Joined | None:
        """As much of the answer as comes back, up to a place where the tokens of the new text begin anew as well."""
        if not self._is_proven(kept.tokens[cut.token]):
            return None
        made, spans = self._codec.spans(rest)
        if not made or made[0] != kept.tokens[cut.token]:
            return None
        starts = {start: place for place, (start, _) in enumerate(spans) if place and spans[place - 1][1] <= start}
        head = kept.tokens[cut.token :]

        def text(count: int) -> str:
            return self._codec.decode(head + answer[:count])

        low, high = 0, len(answer)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if rest.startswith(text(middle)) else (low, middle - 1)
        for count in range(low, max(low - _STEPS, 0), -1):
            said = text(count)
            if len(said) > opening and rest.startswith(said) and len(said) in starts:
                self._counts.answers["kept" if count == len(answer) else "kept_in_part"] += 1
                tokens = kept.tokens[:]
                tokens.extend(answer[:count])
                tokens.extend(made[starts[len(said)] :])
                byte = cut.byte + len(said.encode())
                return Joined(tokens, Cut(byte, len(kept.tokens) + count), answer)
        self._counts.answers["changed"] += 1
        return None

    def _is_proven(self, token: int) -> bool:
        """Whether text tokenises the same in two pieces of which the second begins with the token; seen by trying."""
        if token not in self._proven:
            self._proven[token] = token in self._finder.cuts and self._prove(token)
        return self._proven[token]

    def _prove(self, token: int) -> bool:
        middle, encode = self._finder.cuts[token].decode(), self._codec.encode
        for left in _PROBES:
            head = encode(left + middle)
            for right in _PROBES:
                tail = encode(middle + right)
                if head[-1:] != [token] or tail[:1] != [token] or encode(left + middle + right) != head[:-1] + tail:
                    return False
        return True


def _common(one: str, other: str) -> int:
    return shared(one.encode("utf-8", "surrogatepass"), other.encode("utf-8", "surrogatepass"))
