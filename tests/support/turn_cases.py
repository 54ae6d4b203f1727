"""Conversations as prompts, with answers tokenised as no tokenizer would, and what must hold of them."""

import random
import re
from collections.abc import Callable, Sequence
from typing import Any

from sglang_paste.session.delta import Codec, Counts, DeltaTokenizer, Prompt
from sglang_paste.session.kept import KeptPrompts
from sglang_paste.session.marks import Added

PIECES = ("a", "b", "ab", "abc", "c", " ", "  ", "\n", "\n\n", "é", "🙂", "了", '{"a":', "1}", "<|e|", ">", "</t>")


class ToyCodec:
    """Takes the longest known piece at every place, so that a text cut anywhere has other tokens."""

    def __init__(self, lead: Sequence[int] = ()) -> None:
        letters = [chr(code) for code in range(32, 127)] + ["\n", "é", "🙂", "了"]
        self._texts = ["<|s|>", "<|e|>", "<t>", *dict.fromkeys([*PIECES, *letters])]
        self._tokens = {text: number for number, text in enumerate(self._texts)}
        self.added = [Added(text, number) for number, text in enumerate(self._texts[:3])]
        self.lead = lead
        known = sorted(self._texts[3:], key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, ["<|s|>", "<|e|>", "<t>", *known])))

    def spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        tokens: list[int] = []
        spans: list[tuple[int, int]] = []
        for run in re.finditer(r"<\|s\|>|<\|e\|>|<t>|.+?(?=<\|s\|>|<\|e\|>|<t>|\Z)", text, re.DOTALL):
            for match in self._pattern.finditer(text, run.start(), run.end()):
                tokens.append(self._tokens[match.group()])
                spans.append(match.span())
        return tokens, spans

    def encode(self, text: str) -> list[int]:
        return self.spans(text)[0]

    def decode(self, tokens: Sequence[int]) -> str:
        return "".join(self._texts[token] for token in tokens)


Message = tuple[str, str]
Render = Callable[[Sequence[Message], str, str], str]


def plain(messages: Sequence[Message], start: str, end: str) -> str:
    return "".join(f"{start}{role}\n{text}{end}\n" for role, text in messages) + f"{start}assistant\n"


def trimmed(messages: Sequence[Message], start: str, end: str) -> str:
    return plain([(role, text.strip()) for role, text in messages], start, end)


def last_only(messages: Sequence[Message], start: str, end: str) -> str:
    """Drops what was thought before the last question, as templates of reasoning models do."""
    asked = max((place for place, (role, _) in enumerate(messages) if role == "user"), default=0)
    kept = [(r, t if place > asked else t.rpartition("</t>")[2]) for place, (r, t) in enumerate(messages)]
    return plain(kept, start, end)


def tools_last(messages: Sequence[Message], start: str, end: str) -> str:
    """Puts the tools before the last message, wherever that is."""
    return plain([*messages[:-1], ("tools", '[{"a":1}]'), *messages[-1:]], start, end)


TEMPLATES: tuple[Render, ...] = (plain, trimmed, last_only, tools_last)


class Conversation:
    """Random turns over one delta tokenizer: answers, edits of the past, branches, and other tenants."""

    def __init__(
        self,
        codec: Any,
        seed: int,
        *,
        answers: bool,
        marks: tuple[str, str] = ("<|s|>", "<|e|>"),
        kind: type[DeltaTokenizer] = DeltaTokenizer,
        capacity: int = 1 << 24,
    ) -> None:
        self.random = random.Random(seed)
        self.codec: Codec = codec
        self.start, self.end = marks
        self.answers = answers
        self.prompts, self.counts = KeptPrompts(capacity), Counts()
        self.delta = kind(codec, self.prompts, self.counts)
        # Whether the tokenizer gives back exactly the text it got.
        self.decodes = True
        self.render = self.random.choice(TEMPLATES)
        self.branches: list[list[Message]] = [[("system", self.text(12))]]

    def run(self, turns: int) -> None:
        """Turns with everything that must hold of them."""
        for _ in range(turns):
            messages = self.random.choice(self.branches)
            messages.append((self.random.choice(("user", "tool")), self.text(10)))
            self.change(messages)
            self.turn(messages)

    def turn(self, messages: list[Message]) -> None:
        text = self.render(messages, self.start, self.end)
        prompt = self.ask(text)
        if self.decodes:
            assert self.codec.decode(prompt[len(self.codec.lead) :]) == text
        assert list(prompt[: len(self.codec.lead)]) == list(self.codec.lead)
        if not self.answers:
            assert list(prompt) == self.whole(text)
            messages.append(("assistant", self.text(6)))
            return
        said = self.answer()
        self.prompts.answered(prompt.kept, len(prompt), said)
        heard = self.codec.decode(said).removesuffix(self.end)
        messages.append(("assistant", heard))
        if self.render is plain and prompt.kept is not None:
            following = self.ask(self.render([*messages, ("user", "go")], self.start, self.end))
            # An answer that spells a part of a mark may be cut there.
            if said[-1:] == self.codec.encode(self.end) and "<|" not in heard:
                assert list(following[: len(prompt) + len(said)]) == [*prompt, *said]
            self.prompts.answered(prompt.kept, len(prompt), said)

    def change(self, messages: list[Message]) -> None:
        """Sometimes the past is rewritten, and sometimes there are two of it."""
        if self.random.random() < 0.2:
            place = self.random.randrange(len(messages))
            messages[place] = (messages[place][0], self.text(8))
        if self.random.random() < 0.3:
            self.branches.append(messages[: self.random.randint(1, len(messages))])
        if self.random.random() < 0.1 and len(messages) > 3:
            del messages[1 : self.random.randint(2, len(messages) - 1)]

    def ask(self, text: str, scope: str = "one") -> Prompt:
        prompt = self.delta.extend(scope, text)
        return self.delta.keep(scope, text, self.whole(text)) if prompt is None else prompt

    def whole(self, text: str) -> list[int]:
        return [*self.codec.lead, *self.codec.encode(text)]

    def text(self, pieces: int) -> str:
        return "".join(self.random.choice(PIECES) for _ in range(self.random.randint(0, pieces)))

    def answer(self) -> list[int]:
        """Pieces that were tokenised one by one, and usually an end."""
        pieces = [self.random.choice(PIECES) for _ in range(self.random.randint(1, 8))]
        ends = [self.end] if self.random.random() < 0.8 else []
        return [token for piece in [*pieces, *ends] for token in self.codec.encode(piece)]
