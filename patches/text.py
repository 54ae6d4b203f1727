"""Token ids to text, as SGLang's detokenizer does it."""

from collections.abc import Callable, Sequence
from typing import Any

from sglang_paste.boundary.gate import Decode

_SAMPLE = 512


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
