"""Sampling over trees: what comes out has the target's distribution, whatever was drafted."""

import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from torch import Tensor

from sglang_paste.kernels.draft_pack import Pack, draft_pack
from sglang_paste.kernels.verify import Sample, Verified, sample_tree

# The width holds three drafts of three tokens that share none.
VOCAB, WIDTH, DRAWS = 6, 10, 5000
DRAFTS = torch.tensor([[[1, 2, 3], [1, 4, 3], [5, 0, 0]]])
# A made-up model: what follows a token at a depth.
PROBS = torch.softmax(2 * torch.randn((8, VOCAB, VOCAB), generator=torch.Generator().manual_seed(3)), -1)
# Of a chi-squared distribution with 35 degrees of freedom, 1 in 1,000 lies above.
LIMIT = 66.6


def packed(batch: int, drafts: Tensor = DRAFTS, start: int = 0) -> Pack:
    """Everybody's draft behind a root that is token 0 at position `start`."""
    ones = torch.ones(batch, dtype=torch.int64)
    counts = torch.full((batch, drafts.shape[1]), drafts.shape[2])
    return draft_pack(0 * ones, drafts.expand(batch, -1, -1), counts, start * ones, WIDTH * ones, width=WIDTH)


def by_chance(pack: Pack) -> Sample:
    """Sampled anew at every node."""

    def sample(nodes: Tensor, rows: Tensor, depths: Tensor) -> Tensor:
        return torch.multinomial(PROBS[pack.positions[nodes], pack.tokens[nodes]], 1)[:, 0]

    return sample


def verified(pack: Pack, sample: Sample) -> Verified:
    return sample_tree(
        pack.tokens.view(-1, WIDTH),
        pack.retrieve_next_token,
        pack.retrieve_next_sibling,
        sample,
    )


def distance(result: Verified) -> float:
    """Pearson's statistic of the first two tokens against sampling without drafts, rare pairs counted as one. Where
    only one token came out, the second is drawn from the model."""
    first = result.tokens[result.kept[:, 0].long()].long()
    second = result.tokens[result.kept[:, 1].clamp(0).long()].long()
    second = torch.where(result.counts > 1, second, torch.multinomial(PROBS[1, first], 1)[:, 0])
    expected = (PROBS[0, 0][:, None] * PROBS[1]).view(-1) * len(first)
    seen = torch.bincount(first * VOCAB + second, minlength=VOCAB * VOCAB).float()
    rare = expected < 5
    expected = torch.cat([expected[~rare], expected[rare].sum()[None]])
    seen = torch.cat([seen[~rare], seen[rare].sum()[None]])
    return float(((seen - expected) ** 2 / expected.clamp(1e-9)).sum())


def test_what_is_sampled_has_the_targets_distribution() -> None:
    torch.manual_seed(7)
    pack = packed(DRAWS)
    result = verified(pack, by_chance(pack))
    assert distance(result) < LIMIT
    assert 1 < result.counts.float().mean() < 4, "some drafts were kept and some were not"


def favouring(pack: Pack) -> Sample:
    """Samples once more where no drafted token came out."""

    def sample(nodes: Tensor, rows: Tensor, depths: Tensor) -> Tensor:
        first, again = by_chance(pack)(nodes, rows, depths), by_chance(pack)(nodes, rows, depths)
        return torch.where((first == 1) | (first == 5), first, again)

    return sample


def test_the_test_tells_a_verification_that_favours_drafts() -> None:
    torch.manual_seed(7)
    pack = packed(DRAWS)
    assert distance(verified(pack, favouring(pack))) > 2 * LIMIT


Text = list[int]


def seeded(seeds: Tensor, positions: Tensor) -> Tensor:
    """The tokens that a seed and a position decide."""
    return (seeds * 7 + positions * positions * 3 + seeds * positions) % 3


def alone(seed: int, start: int, count: int) -> Text:
    """What is sampled token by token."""
    return [int(seeded(torch.tensor(seed), torch.tensor(start + step))) for step in range(count)]


def drafted(seed: int, start: int, drafts: Tensor, shift: int = 0) -> Text:
    """What one step brings with drafts."""
    pack = packed(1, drafts, start)
    result = verified(pack, lambda _nodes, rows, depths: seeded(seed + 0 * rows, start + shift + depths))
    return result.tokens[result.kept[0, : int(result.counts[0])].long()].tolist()


seeds, starts = st.integers(0, 1000), st.integers(0, 1000)
trees = st.lists(st.lists(st.integers(0, 2), min_size=3, max_size=3), min_size=1, max_size=3)


@given(seeds, starts, trees)
@settings(max_examples=60)
def test_with_a_seed_the_tokens_are_those_sampled_without_drafts(seed: int, start: int, drafts: list[Text]) -> None:
    found = drafted(seed, start, torch.tensor([drafts]))
    assert found == alone(seed, start, len(found))
    text = alone(seed, start, 3)
    right = max(next((at for at in range(3) if draft[at] != text[at]), 3) for draft in drafts)
    assert len(found) == 1 + right, "a draft is kept as far as it is what is sampled"


def test_a_position_that_is_off_by_one_is_told() -> None:
    def differs(case: tuple[int, int, list[Text]]) -> bool:
        seed, start, drafts = case
        found = drafted(seed, start, torch.tensor([drafts]), shift=1)
        return found != alone(seed, start, len(found))

    assert find(st.tuples(seeds, starts, trees), differs, settings=settings(derandomize=True, phases=[Phase.generate]))


@pytest.mark.parametrize("sample", [by_chance, favouring])
def test_what_is_kept_is_a_path_of_the_tree_and_the_counts_fit(sample: Callable[[Pack], Sample]) -> None:
    torch.manual_seed(7)
    pack = packed(500)
    result = verified(pack, sample(pack))
    assert torch.equal((result.kept >= 0).sum(1), result.counts)
    for row in range(500):
        path = result.kept[row, : int(result.counts[row])].tolist()
        assert path[0] == row * WIDTH
        for node, after in itertools.pairwise(path):
            assert int(pack.tokens[after]) == int(result.tokens[node])
            assert int(pack.positions[after]) == int(pack.positions[node]) + 1
