"""Token ids to text, as SGLang's detokenizer does it, and texts within an answer to token ids."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from sglang_paste.boundary.gate import Decode

MAX_TEXT_CHARS = 8192

_SAMPLE = 512
_CACHED = 512
_PAD = "\n"


def decoder(tokenizer: Any, *, skip_special: bool) -> Decode:
    """The tokenizer's own decoding, without what it spends around its Rust core where that changes nothing."""

    def slow(tokens: Sequence[int]) -> str:
        return str(tokenizer.decode(tokens, skip_special_tokens=skip_special, spaces_between_special_tokens=True))

    core = getattr(tokenizer, "_tokenizer", None)
    if not getattr(tokenizer, "is_fast", False) or core is None:
        return slow
    decode: Callable[..., str] = core.decode

    def fast(tokens: Sequence[int]) -> str:
        return decode(tokens, skip_special_tokens=skip_special)

    return fast if _agree(fast, slow, len(tokenizer)) else slow


def _agree(fast: Decode, slow: Decode, size: int) -> bool:
    step = max(1, size // _SAMPLE)
    samples = [list(range(first, min(first + 8, size))) for first in range(0, size, 8 * step)]
    return all(fast(sample) == slow(sample) for sample in samples)


def encoder(tokenizer: Any) -> Callable[[str], tuple[int, ...]]:
    """What encodes a text that goes on, of at most `MAX_TEXT_CHARS`: some tokenizers put a space before whatever begins
    one. Texts that come again are not encoded again."""

    def ids(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    pad = ids(_PAD)

    @lru_cache(_CACHED)
    def encode(text: str) -> tuple[int, ...]:
        text = text[:MAX_TEXT_CHARS]
        padded = ids(_PAD + text)
        return tuple(padded[len(pad) :] if padded[: len(pad)] == pad else ids(text))

    return encode
