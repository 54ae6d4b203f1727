"""Hints are bounded, in order of trust, and gone with their request."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_paste.draft import hints as draft_hints
from sglang_paste.draft.hints import MAX_TEXTS, MAX_TOKENS, Hints, Source


def test_hints_come_in_order_of_trust_whoever_came_first() -> None:
    hints = Hints()
    hints.put("r", Source.PAST, [[1, 2, 3]])
    hints.put("r", Source.PREDICTED, [[4, 5, 6], [7, 8, 9]])
    assert [(hint.source, hint.tokens) for hint in hints.of("r")] == [
        ("predicted", (4, 5, 6)),
        ("predicted", (7, 8, 9)),
        ("past", (1, 2, 3)),
    ]


def test_a_source_replaces_what_it_knew_and_leaves_the_others() -> None:
    hints = Hints()
    hints.put("r", Source.PAST, [[1, 2, 3]])
    hints.put("r", Source.SKELETON, [[4, 5, 6]])
    hints.put("r", Source.PAST, [])
    assert [hint.source for hint in hints.of("r")] == [Source.SKELETON]


def test_the_same_object_says_that_nothing_was_put() -> None:
    hints = Hints()
    hints.put("r", Source.PAST, [[1, 2, 3]])
    before = hints.of("r")
    hints.put("other", Source.PAST, [[1, 2, 3]])
    assert hints.of("r") is before
    hints.put("r", Source.PAST, [[1, 2, 3]])
    assert hints.of("r") is not before


def test_a_text_no_longer_than_its_match_has_nothing_to_draft() -> None:
    hints = Hints()
    hints.put("r", Source.PAST, [[1, 2], [1, 2, 3]], min_match=2)
    assert [hint.tokens for hint in hints.of("r")] == [(1, 2, 3)]


def test_likelihoods_stay_with_their_texts() -> None:
    hints = Hints()
    hints.put("r", Source.PREDICTED, [[1, 2, 3], [4], [5, 6, 7]], probabilities=[0.5, 0.3, 0.1])
    assert [(hint.tokens, hint.probability) for hint in hints.of("r")] == [((1, 2, 3), 0.5), ((5, 6, 7), 0.1)]
    with pytest.raises(ValueError, match="shorter"):
        hints.put("r", Source.PREDICTED, [[1, 2, 3], [5, 6, 7]], probabilities=[0.5])


def test_a_request_that_ended_leaves_nothing() -> None:
    hints = Hints()
    hints.put("r", Source.PAST, [[1, 2, 3]])
    hints.drop("r")
    hints.drop("r")
    assert (hints.of("r"), len(hints)) == ((), 0)
    hints.put("r", Source.SKELETON, [[4, 5, 6]])
    assert [hint.source for hint in hints.of("r")] == [Source.SKELETON]


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(Source), st.integers(0, 3)), max_size=60))
def test_bounded_whatever_comes(puts: list[tuple[int, Source, int]]) -> None:
    hints = Hints(max_requests=3)
    for request, source, size in puts:
        hints.put(str(request), source, [range(MAX_TOKENS * size)] * (MAX_TEXTS + 1))
        assert len(hints) <= 3
        assert all(len(hint.tokens) <= MAX_TOKENS for hint in hints.of(str(request)))
        assert len(hints.of(str(request))) <= MAX_TEXTS * len(Source)


def test_all_texts_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draft_hints, "MAX_TOTAL_TOKENS", 100)
    hints = Hints()
    for request in range(5):
        for _ in range(3):
            hints.put(str(request), Source.PAST, [range(40)])
        held = [hint for each in range(5) for hint in hints.of(str(each))]
        assert sum(len(hint.tokens) for hint in held) <= 100
    assert [len(hints.of(str(request))) for request in range(5)] == [0, 0, 0, 1, 1]
    hints.drop("4")
    hints.put("5", Source.PAST, [range(40)])
    assert len(hints.of("3")) == 1
