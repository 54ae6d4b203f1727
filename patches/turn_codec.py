"""A Hugging Face tokenizer as the delta tokenizer uses it."""

from collections.abc import Sequence
from typing import Any

from sglang_paste.session.marks import Added

_SAMPLES = ("x", "Hello there.\n\n", " two  spaces", "é🙂了")


class FastCodec:
    """The Rust core of a fast tokenizer, called as the tokenizer itself calls it."""

    def __init__(self, core: Any, lead: Sequence[int]) -> None:
        self._core = core
        self.lead = tuple(lead)
        self.added = [
            Added(token.content, number, single=token.single_word)
            for number, token in core.get_added_tokens_decoder().items()
            if token.content and not token.normalized
        ]

    def encode(self, text: str) -> list[int]:
        """The tokens of a text, without the lead."""
        return list(self._core.encode(text, add_special_tokens=False).ids)

    def spans(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The same, with the characters each token stands for."""
        found = self._core.encode(text, add_special_tokens=False)
        return list(found.ids), list(found.offsets)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens, special ones included."""
        return str(self._core.decode(tokens, skip_special_tokens=False))


def codec_of(tokenizer: Any, *, lead: bool) -> FastCodec | None:
    """The codec of a tokenizer, with or without the tokens it puts before a prompt. None for one that is slow, cuts,
    pads, adds tokens at the end, or encodes in a way of its own."""
    core = getattr(tokenizer, "_tokenizer", None)
    if not getattr(tokenizer, "is_fast", False) or core is None or core.truncation or core.padding:
        return None
    if getattr(tokenizer, "split_special_tokens", False) or core.encode_special_tokens:
        return None
    codec = FastCodec(core, _lead(tokenizer) if lead else ())
    for sample in (*_SAMPLES, *(sample + item.text + sample for sample in _SAMPLES for item in codec.added[:8])):
        whole = list(tokenizer(sample)["input_ids"] if lead else tokenizer.encode(sample, add_special_tokens=False))
        if whole != [*codec.lead, *codec.encode(sample)]:
            return None
    return codec


def _lead(tokenizer: Any) -> list[int]:
    whole, bare = tokenizer("x")["input_ids"], tokenizer.encode("x", add_special_tokens=False)
    return list(whole[: len(whole) - len(bare)])
