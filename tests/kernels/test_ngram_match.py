"""`ngram_match`: every version gives the reference's integers."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import Phase, find, given, settings
from torch import Tensor

from sglang_paste.kernels.ngram_match import Match, Prefer, host, ngram_match, reference

POISON = -77


@dataclass(frozen=True)
class Case:
    text: Tensor
    lengths: Tensor
    tail: Tensor
    tail_lengths: Tensor
    min_match: int
    max_match: int
    draft: int
    prefer: Prefer

    def after(self, version: Callable[..., Any]) -> Match:
        numbers = torch.full((3, len(self.text)), POISON, dtype=torch.int32)
        tokens = torch.full((len(self.text), 2 * self.draft), POISON, dtype=self.text.dtype)[:, ::2]
        out = Match(tokens, *numbers)
        return version(*vars(self).values(), out) or out


def same(ours: Match, truth: Match) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, truth, strict=True))


@st.composite
def texts(draw: st.DrawFn, rows: int, capacity: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Few different ids, some at the edge of what the dtype holds; every second column of a wider tensor, or all."""
    seed = draw(st.integers(0, 2**32))
    generator = torch.Generator().manual_seed(seed)
    ids, step = draw(st.sampled_from([1, 2, 3, 12])), draw(st.sampled_from([1, 2]))
    wide = torch.randint(0, ids, (rows, step * capacity), generator=generator, dtype=dtype)
    if draw(st.booleans()):
        wide = torch.where(wide > 0, torch.iinfo(dtype).max - wide, wide)
    if draw(st.booleans()):
        wide[torch.rand(wide.shape, generator=generator) < 0.05] = -1
    lengths = st.one_of(st.just(capacity), st.integers(0, capacity))
    return wide[:, ::step], torch.tensor([[draw(lengths), POISON] for _ in range(rows)], dtype=torch.int32)[:, 0]


@st.composite
def cases(draw: st.DrawFn, most_rows: int = 3) -> Case:
    dtype, rows = draw(st.sampled_from([torch.int32, torch.int64])), draw(st.integers(1, most_rows))
    text = draw(texts(rows, draw(st.sampled_from([0, 1, 63, 100, 1000])), dtype))
    tail = draw(st.one_of(st.just(text), texts(rows, 20, dtype)))
    least = draw(st.integers(1, 4))
    most, draft = draw(st.integers(least, 12)), draw(st.integers(1, 9))
    return Case(*text, *tail, least, most, draft, draw(st.sampled_from(["recent", "frequent"])))


@given(cases())
@settings(max_examples=60)
def test_host_is_the_reference(case: Case) -> None:
    assert same(case.after(host.ngram_match), case.after(reference.ngram_match))


@given(cases(most_rows=1))
@settings(max_examples=30)
def test_host_is_the_reference_in_small_pieces(case: Case) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host, "FIRST_PIECE", 4)
        assert same(case.after(host.ngram_match), case.after(reference.ngram_match))


@given(cases(most_rows=2))
@settings(max_examples=8)
def test_triton_is_the_reference(triton: Callable[..., Match], case: Case) -> None:
    ours = case.after(lambda *arguments: triton("ngram_match", *arguments))
    assert same(ours, case.after(reference.ngram_match))


@pytest.mark.parametrize("prefer", ["recent", "frequent"])
def test_triton_is_the_host_over_several_pieces(triton: Callable[..., Match], prefer: Prefer) -> None:
    text = torch.randint(0, 3, (3, 4000), generator=torch.Generator().manual_seed(5))
    text[1, 1000:] = text[1, 500]
    text[2, -9:] = text[2, 20:29]
    lengths = torch.tensor([4000, 3000, 4000])
    case = Case(text, lengths, text, lengths, 2, 9, 8, prefer)
    assert same(case.after(lambda *arguments: triton("ngram_match", *arguments)), case.after(host.ngram_match))


BROKEN: dict[str, Callable[[Case], Case]] = {
    "another preference": lambda case: replace(case, prefer="frequent" if case.prefer == "recent" else "recent"),
    "one token too few": lambda case: replace(case, lengths=(case.lengths - 1).clamp(0)),
    "too long a match": lambda case: replace(case, max_match=case.max_match + 1),
    "too short a match": lambda case: replace(case, min_match=max(1, case.min_match - 1)),
    "separators forgotten": lambda case: replace(case, text=case.text.clamp(0), tail=case.tail.clamp(0)),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_version_is_told_apart(broken: str) -> None:
    def differs(case: Case) -> bool:
        return not same(BROKEN[broken](case).after(host.ngram_match), case.after(reference.ngram_match))

    assert find(
        cases(most_rows=1), differs, settings=settings(max_examples=500, derandomize=True, phases=[Phase.generate])
    )


def one(text: list[int], tail: list[int] | None = None, prefer: Prefer = "recent", draft: int = 3) -> list[int]:
    def row(tokens: list[int]) -> dict[str, Tensor]:
        return {"tail": torch.tensor([tokens]), "tail_lengths": torch.tensor([len(tokens)])}

    looked_for = {} if tail is None else row(tail)
    found = ngram_match(
        torch.tensor([text]),
        torch.tensor([len(text)]),
        min_match=2,
        max_match=4,
        draft=draft,
        prefer=prefer,
        **looked_for,
    )
    return [int(found.length[0]), *found.tokens[0, : int(found.count[0])].tolist()]


def test_what_followed_is_drafted() -> None:
    assert one([1, 2, 3, 4, 5, 1, 2]) == [2, 3, 4, 5]
    assert one([1, 2, 3, 9, 1, 2, 4, 9, 1, 2]) == [3, 4, 9, 1], "the last time"
    assert one([9, 1, 2, 3, 7, 1, 2, 4, 9, 1, 2]) == [3, 3, 7, 1], "a longer match is better than a later one"
    assert one([7, 7, 7, 7]) == [3, 7], "an occurrence may overlap the end, and must have something after it"
    assert one([1, 2, 3]) == [0]


def test_the_most_frequent_continuation_wins() -> None:
    text = [1, 2, 5, 0, 1, 2, 5, 0, 1, 2, 6, 8, 1, 2]
    assert one(text, draft=1) == [2, 6]
    assert one(text, prefer="frequent", draft=1) == [2, 5]


def test_a_tail_is_found_in_other_texts() -> None:
    assert one([1, 2, 3, 4], tail=[8, 1, 2]) == [2, 3, 4]
    assert one([1, 2, -1, 2, 3, 1, 2, 6, -1, 7], tail=[1, 2]) == [2, 6], "not past a text's end"
    assert one([1, 2], tail=[1, 2]) == [0], "nothing follows"


def test_long_texts_are_searched_to_their_beginning() -> None:
    text = torch.arange(256 * 1024, dtype=torch.int32)[None]
    text[0, -3:] = text[0, 10:13]
    found = ngram_match(text, torch.tensor([text.shape[1]]), min_match=2, max_match=8, draft=4)
    assert (found.length.tolist(), found.tokens.tolist()) == ([3], [[13, 14, 15, 16]])


def test_numbers_that_cannot_be_met_are_refused() -> None:
    text, lengths = torch.zeros((1, 4), dtype=torch.int64), torch.tensor([4])
    with pytest.raises(ValueError, match="at least 1"):
        ngram_match(text, lengths, min_match=3, max_match=2, draft=1)
    with pytest.raises(ValueError, match="belong together"):
        ngram_match(text, lengths, min_match=1, max_match=2, draft=1, tail=text)
