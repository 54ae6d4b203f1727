"""What is kept is found again, within its bound."""

from array import array

from hypothesis import given
from hypothesis import strategies as st

from sglang_paste.session.kept import CANDIDATES, Kept, KeptPrompts, keys_of, shared
from sglang_paste.session.marks import Added, MarkFinder, Marks, cuts_at

TEXTS = st.binary(max_size=300)


def keep(prompts: KeptPrompts, text: bytes, scope: str = "one") -> Kept:
    kept = Kept(scope, text, array("q", list(text)), Marks())
    prompts.add(kept, keys_of(scope, text))
    return kept


@given(TEXTS, TEXTS, TEXTS)
def test_shared(start: bytes, one: bytes, other: bytes) -> None:
    one, other = start * 1000 + one, start * 1000 + other
    size = shared(one, other)
    assert one[:size] == other[:size]
    assert size == min(len(one), len(other)) or one[size] != other[size]


def test_the_nearest_is_found() -> None:
    prompts = KeptPrompts(1 << 20)
    head = b"the same beginning of all of them. " * 10
    ones = [keep(prompts, head + bytes([letter]) * 40) for letter in range(65, 65 + CANDIDATES)]
    for kept in ones:
        text = kept.text + b" and more"
        assert prompts.find("one", text, keys_of("one", text)) == (kept, len(kept.text))
    assert prompts.find("two", head, keys_of("two", head)) is None


def test_the_longest_unused_go_first() -> None:
    size = keep(KeptPrompts(1 << 20), b"a" * 600).size
    prompts = KeptPrompts(3 * size)
    first, second = keep(prompts, b"a" * 600), keep(prompts, b"b" * 600)
    assert prompts.find("one", first.text, keys_of("one", first.text)) == (first, 600)
    keep(prompts, b"c" * 600)
    keep(prompts, b"d" * 600)
    assert first in prompts.kept()
    assert second not in prompts.kept()
    assert prompts.find("one", second.text, keys_of("one", second.text)) is None
    keep(prompts, b"e" * 100_000)
    assert first in prompts.kept()
    assert prompts.size == sum(kept.size for kept in prompts.kept())


def test_a_prompt_goes_once_its_answers_are_taken_up() -> None:
    prompts = KeptPrompts(1 << 20)
    kept = keep(prompts, b"a" * 100)
    kept.pending = 2
    for answer in ([1, 2], [3]):
        prompts.answered(kept, 100, answer)
    prompts.take(kept, kept.answers[0])
    assert [list(answer) for answer in kept.answers] == [[3]]
    prompts.take(kept, kept.answers[0])
    assert not prompts.kept()
    assert prompts.size == 0
    prompts.answered(kept, 100, [4])
    assert prompts.size == 0


def test_an_answer_to_a_cut_prompt_is_not_kept() -> None:
    prompts = KeptPrompts(1 << 20)
    kept = keep(prompts, b"a" * 100)
    prompts.answered(kept, 99, [1])
    assert not kept.answers


def test_tokens_within_others_are_no_cuts() -> None:
    texts = ["<a>", "<a><b>", "b>c", "<d>"]
    assert [text for text in texts if cuts_at(text, texts)] == ["<a><b>", "<d>"]
    finder = MarkFinder([Added(text, number, single=text == "<d>") for number, text in enumerate(texts)])
    assert set(finder.cuts) == {1}
