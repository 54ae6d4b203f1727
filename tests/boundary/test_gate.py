"""Text comes out whole, however its bytes are committed."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from sglang_paste.boundary.gate import CLOSING, INSIDE, OPENING, Reader, Vocabulary


def decode(tokens: Sequence[int]) -> str:
    """A tokenizer with one token for every byte."""
    return bytes(tokens).decode(errors="replace")


@given(st.text(), st.lists(st.integers(1, 7), min_size=1))
def test_what_is_read_is_what_was_written(text: str, sizes: list[int]) -> None:
    tokens, reader, read = list(text.encode("utf-8", "replace")), Reader(decode, [0x61, 0xC3]), ""
    at = 0
    for number in range(len(tokens)):
        size = sizes[number % len(sizes)]
        added = reader.read(tokens[at : at + size])
        assert "\ufffd" not in added or "\ufffd" in text
        read, at = read + added, at + size
    assert read + reader.read([], last=True) == bytes(tokens).decode()


def test_what_is_complete_is_not_held_back() -> None:
    reader = Reader(decode)
    assert reader.read("{}é".encode()[:-1]) == "{}"
    assert reader.read("é".encode()[1:] + b"x") == "éx"


def test_what_never_becomes_complete_comes_last() -> None:
    reader = Reader(decode)
    assert reader.read(b"a\xc3") == "a"
    assert reader.read([]) == ""
    assert reader.read([], last=True) == "\ufffd"


def test_a_vocabulary_learns_a_token_once() -> None:
    asked: list[Sequence[int]] = []

    def watched(tokens: Sequence[int]) -> str:
        asked.append(tokens)
        return decode(tokens)

    vocabulary = Vocabulary(watched, "json")
    flags = [vocabulary.learn(ord(letter)) for letter in 'a,"}>\n']
    assert flags == [0, INSIDE, INSIDE, OPENING | INSIDE | CLOSING, OPENING | INSIDE | CLOSING, OPENING]
    assert vocabulary.flags[ord("a")] == 0
    assert len(asked) == 6
