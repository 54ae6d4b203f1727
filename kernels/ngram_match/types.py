"""What a match is."""

from typing import Literal, NamedTuple

from torch import Tensor

Prefer = Literal["recent", "frequent"]

VOTERS = 64


class Match(NamedTuple):
    """Per row: `tokens` [rows, draft] of the text's dtype, -1 after the first `count` [rows] int32, how many tokens
    matched, `length` [rows] int32, and where in the text the drafted ones begin, `place` [rows] int32; 0 where nothing
    matched."""

    tokens: Tensor
    count: Tensor
    length: Tensor
    place: Tensor
