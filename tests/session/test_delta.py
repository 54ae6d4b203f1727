"""A prompt's tokens are those of its text, whatever was kept."""

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st
from turn_cases import Conversation, ToyCodec

from sglang_paste.session.delta import DeltaTokenizer, Joined
from sglang_paste.session.kept import Kept
from sglang_paste.session.marks import Cut

SEEDS = st.integers(0, 1 << 30)


class CutsAnywhere(DeltaTokenizer):
    """Trusts every place between two tokens."""

    def _join(self, kept: Kept, common: int, data: bytes) -> Joined:
        sizes = [len(self._codec.decode([token]).encode()) for token in kept.tokens]
        byte = count = 0
        while count < len(sizes) and byte + sizes[count] <= common:
            byte, count = byte + sizes[count], count + 1
        rest = self._codec.encode(data[byte:].decode())
        return Joined(kept.tokens[:count] + array("q", rest), Cut(byte, count))


@given(SEEDS)
def test_tokens_are_those_of_the_whole_text(seed: int) -> None:
    Conversation(ToyCodec(), seed, answers=False).run(12)


@given(SEEDS)
def test_answers_stay_as_the_model_made_them(seed: int) -> None:
    Conversation(ToyCodec(lead=(0,)), seed, answers=True).run(12)


@given(SEEDS)
def test_what_was_forgotten_changes_nothing(seed: int) -> None:
    conversation = Conversation(ToyCodec(), seed, answers=False, capacity=12_000)
    conversation.run(12)
    assert conversation.prompts.size <= 12_000


def test_a_version_that_cuts_anywhere_is_caught() -> None:
    def run() -> None:
        for seed in range(20):
            Conversation(ToyCodec(), seed, answers=False, kind=CutsAnywhere).run(12)

    with pytest.raises(AssertionError):
        run()
