"""Committed tokens in, events out. Pure: the detector, the tokenizer and the way out are handed in."""

from sglang_paste.boundary.gate import Vocabulary
from sglang_paste.boundary.shape import Detector, FoundCall, Shape
from sglang_paste.boundary.turn import Sink, Tally, Turn, TurnHead

__all__ = ["Detector", "FoundCall", "Shape", "Sink", "Tally", "Turn", "TurnHead", "Vocabulary"]
