"""Where drafting must not go, so that the text is what it would be without."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_paste.patches.draft_limits import limit_of, prune


class XGrammarGrammar:
    """Allows the tokens of one text, in order."""

    def __init__(self, text: list[int]) -> None:
        self.text = text
        self.place = 0
        self.finished = False

    def accept_token(self, token: int) -> None:
        if self.is_terminated() or self.text[self.place] != token:
            raise ValueError(token)
        self.place += 1

    def rollback(self, count: int) -> None:
        assert 0 < count <= self.place
        self.place -= count

    def is_terminated(self) -> bool:
        return self.place == len(self.text)


tokens = st.lists(st.integers(0, 2), max_size=8)


@given(tokens, tokens, st.integers(0, 8))
def test_pruned_drafts_are_what_the_grammar_allows_and_it_stays_where_it_was(
    text: list[int], draft: list[int], place: int
) -> None:
    grammar = XGrammarGrammar(text)
    grammar.place = min(place, len(text))
    before = grammar.place
    kept = prune(grammar, draft)
    assert grammar.place == before
    if grammar.is_terminated():
        assert kept == draft
        return
    rest = text[before:]
    common = next((at for at, pair in enumerate(zip(rest, draft, strict=False)) if pair[0] != pair[1]), None)
    assert kept == draft[: min(len(rest), len(draft)) if common is None else common]


class Matcher:
    """Broken by a token that it does not allow, as those of other backends are."""

    finished = False

    def is_terminated(self) -> bool:
        return False

    def accept_token(self, token: int) -> None:
        raise AssertionError(token)


def test_a_grammar_that_cannot_be_asked_is_let_alone() -> None:
    assert prune(Matcher(), [1, 2]) == [1, 2]
    assert prune(SimpleNamespace(grammar=Matcher(), finished=False), [1, 2]) == [1, 2]


def test_a_grammar_behind_a_reasoner_s_is_asked() -> None:
    class ReasonerGrammarObject(XGrammarGrammar):
        grammar = XGrammarGrammar([])

    assert prune(ReasonerGrammarObject([1, 3]), [1, 2]) == [1]


def test_without_a_grammar_nothing_is_pruned() -> None:
    assert prune(None, [1, 2]) == [1, 2]


def request(steps: int = 1, **params: Any) -> Any:
    """A request with a prompt of 10 tokens, which was prefilled and then decoded in so many steps."""
    defaults: dict[str, Any] = {"frequency_penalty": 0.0, "presence_penalty": 0.0, "repetition_penalty": 1.0}
    defaults |= {"min_new_tokens": 0, "custom_params": None}
    wanted = SimpleNamespace(**(defaults | {"max_new_tokens": 100} | params))
    return SimpleNamespace(
        sampling_params=wanted, origin_input_ids=[1] * 10, multimodal_inputs=None, decode_batch_idx=steps
    )


def test_no_more_is_drafted_than_may_come() -> None:
    assert limit_of(request(), 10) == 98
    assert limit_of(request(max_new_tokens=2), 10) == 0
    assert limit_of(request(max_new_tokens=1), 10) == 0


@pytest.mark.parametrize("name", ["frequency_penalty", "presence_penalty", "repetition_penalty"])
def test_penalties_are_counted_token_by_token(name: str) -> None:
    assert limit_of(request(**{name: 0.5}), 10) == 0


def test_a_least_number_of_tokens_is_counted_before_anything_is_drafted() -> None:
    assert limit_of(request(steps=4, min_new_tokens=5), 13) == 0
    assert limit_of(request(steps=5, min_new_tokens=5), 14) == 94
    assert limit_of(request(steps=1, min_new_tokens=5), 30) == 0, "SGLang counts anew after a retraction"


def test_a_request_can_do_without_drafts() -> None:
    assert limit_of(request(custom_params={"paste_drafts": False}), 10) == 0
    assert limit_of(request(custom_params={"paste_drafts": True, "other": 1}), 10) == 98
