"""`draft_pack`: every version gives the reference's integers, and these are what SGLang verifies."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import Phase, find, given, settings
from torch import Tensor

from sglang_paste.kernels.draft_pack import Pack, Shape, draft_pack, host, reference
from sglang_paste.kernels.draft_pack.types import empty_pack

POISON = 77


@dataclass(frozen=True)
class Case:
    roots: Tensor
    drafts: Tensor
    counts: Tensor
    seq_lens: Tensor
    limits: Tensor
    width: int
    shape: Shape

    def after(self, version: Callable[..., Any], full: bool = True, spare: int = 0) -> Pack:
        total = int(self.seq_lens.sum()) + spare if full else None
        out = empty_pack(len(self.roots), self.width, total, torch.device("cpu"))
        for tensor in out:
            if tensor is not None:
                tensor.fill_(POISON)
        return version(*vars(self).values(), out) or out


def same(ours: Pack, truth: Pack) -> bool:
    pairs = zip(ours, truth, strict=True)
    return all(a is b if a is None or b is None else torch.equal(a, b) for a, b in pairs)


@st.composite
def cases(draw: st.DrawFn, most_rows: int = 4, most_sources: int = 4) -> Case:
    batch, sources = draw(st.integers(0, most_rows)), draw(st.integers(1, most_sources))
    draft, width = draw(st.integers(1, 9)), draw(st.integers(1, 12))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))

    def ints(low: int, high: int, *shape: int) -> Tensor:
        dtype = draw(st.sampled_from([torch.int32, torch.int64]))
        return torch.randint(low, high, (*shape, 2), generator=generator, dtype=dtype)[..., draw(st.integers(0, 1))]

    drafts = ints(draw(st.sampled_from([0, 0, -1])), draw(st.integers(1, 3)), batch, sources, draft)
    counts, limits = ints(-1, draft + 2, batch, sources), ints(-1, width + 2, batch)
    lengths = ints(0, 40, batch)
    return Case(
        ints(0, 9, batch), drafts, counts, lengths, limits, width, draw(st.sampled_from(["chain", "tree", "tree"]))
    )


@given(cases(), st.booleans(), st.integers(0, 5))
@settings(max_examples=100)
def test_host_is_the_reference(case: Case, full: bool, spare: int) -> None:
    assert same(case.after(host.draft_pack, full, spare), case.after(reference.draft_pack, full, spare))


@given(cases(most_rows=2, most_sources=3), st.booleans())
@settings(max_examples=8)
def test_triton_is_the_reference(triton: Callable[..., Pack], case: Case, full: bool) -> None:
    ours = case.after(lambda *arguments: triton("draft_pack", *arguments), full)
    assert same(ours, case.after(reference.draft_pack, full))


BROKEN: dict[str, Callable[[Case], Case]] = {
    "the last source is the most trusted": lambda case: replace(
        case, drafts=case.drafts.flip(1), counts=case.counts.flip(1)
    ),
    "limits forgotten": lambda case: replace(case, limits=torch.full_like(case.limits, case.width)),
    "counts forgotten": lambda case: replace(case, counts=torch.full_like(case.counts, case.drafts.shape[2])),
    "always a tree": lambda case: replace(case, shape="tree"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_version_is_told_apart(broken: str) -> None:
    def differs(case: Case) -> bool:
        return not same(BROKEN[broken](case).after(host.draft_pack), case.after(reference.draft_pack))

    assert find(
        cases(most_rows=1), differs, settings=settings(max_examples=500, derandomize=True, phases=[Phase.generate])
    )


@pytest.mark.host
@given(cases())
def test_links_are_those_sglang_derives_from_the_mask(case: Case) -> None:
    from sgl_kernel.speculative import reconstruct_indices_from_tree_mask

    pack, batch = case.after(host.draft_pack), len(case.roots)
    derived = (pack.positions, pack.retrieve_index, pack.retrieve_next_token, pack.retrieve_next_sibling)
    theirs = [torch.full_like(tensor, POISON) for tensor in derived]
    if batch:
        reconstruct_indices_from_tree_mask(pack.mask, case.seq_lens, *theirs, batch, case.width)
    assert all(torch.equal(a, b) for a, b in zip(derived, theirs, strict=True))


@given(cases())
def test_the_full_mask_sees_the_text_and_then_the_mask(case: Case) -> None:
    pack = case.after(host.draft_pack)
    masks = zip(pack.mask.view(-1, case.width, case.width), case.seq_lens.tolist(), strict=True)
    rows = [torch.cat((torch.ones(case.width, length), mask), 1).bool().flatten() for mask, length in masks]
    assert torch.equal(torch.cat([*rows, torch.ones(0, dtype=torch.bool)]), pack.full_mask)


@pytest.mark.host
@given(cases(), st.integers(0, 2**32))
def test_unused_nodes_are_never_accepted(case: Case, seed: int) -> None:
    """The padding's id is a likely token here, and what is accepted is a path that the sources drafted."""
    from sgl_kernel.speculative import verify_tree_greedy_cpu

    pack, shape = case.after(host.draft_pack), (len(case.roots), case.width)
    target = torch.randint(0, 3, shape, generator=torch.Generator().manual_seed(seed))
    predicts = torch.zeros(shape, dtype=torch.int32).view(-1)
    places, number = torch.full(shape, -1, dtype=torch.int32), torch.zeros(shape[0], dtype=torch.int32)
    links = (pack.retrieve_index, pack.retrieve_next_token, pack.retrieve_next_sibling)
    verify_tree_greedy_cpu(predicts, places, number, pack.tokens.view(shape), *links, target)
    for row, accepted in enumerate(places.tolist()):
        nodes = [place - row * case.width for place in accepted[1:] if place >= 0]
        assert all(pack.source[row, node] >= 0 for node in nodes)
        path = [int(pack.tokens.view(shape)[row, node]) for node in nodes]
        offered = [
            case.drafts[row, source, : case.counts[row, source].clamp(0)].tolist()
            for source in range(case.drafts.shape[1])
        ]
        assert not path or any(tokens[: len(path)] == path for tokens in offered)


def test_sources_that_begin_alike_share_nodes() -> None:
    drafts = torch.tensor([[[5, 6, 7], [5, 6, 8], [9, 0, 0]]])
    pack = draft_pack(
        torch.tensor([4]), drafts, torch.tensor([[3, 3, 1]]), torch.tensor([10]), torch.tensor([9]), width=7
    )
    assert pack.tokens.tolist() == [4, 5, 6, 7, 8, 9, 0]
    assert pack.positions.tolist() == [10, 11, 12, 13, 13, 11, 10]
    assert pack.source.tolist() == [[-1, 0, 0, 0, 1, 2, -1]]
    assert pack.retrieve_next_token.tolist() == [[1, 2, 3, -1, -1, -1, -1]]
    assert pack.retrieve_next_sibling.tolist() == [[-1, 5, -1, 4, -1, -1, -1]]


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    ones = torch.ones(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="same batch"):
        draft_pack(ones, torch.ones((2, 3, 4)), torch.ones((2, 2)), ones, ones, width=4)
