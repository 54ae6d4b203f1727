"""Sampled with drafts by SGLang's sampler, tokens come from the distribution they come from without."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

pytestmark = [pytest.mark.host, pytest.mark.filterwarnings("ignore")]

WORDS, TRIALS = 5, 20_000
ROOT, TOP_P, TOP_K, MIN_P = 2, 0.85, 4, 0.3
# The engine: what follows a word depends on the word alone.
FOLLOWS = torch.tensor(
    [
        [2.0, 1.0, 0.5, 0.0, -1.0],
        [0.0, 0.2, 0.1, 2.0, 1.0],
        [1.0, 1.5, 0.0, 0.3, 0.9],
        [0.0, 0.1, 0.2, 0.3, 0.4],
        [-1.0, 2.0, 1.0, 0.0, 0.7],
    ]
)
Verify = Callable[[Any, Tensor, Any, Tensor], tuple[Tensor, Tensor, Tensor]]


class Sampling(SimpleNamespace):
    def __len__(self) -> int:
        return len(self.temperatures)


def sampling(size: int, temperature: float, **kind: Any) -> Any:
    return Sampling(
        is_all_greedy=False,
        has_custom_logit_processor=False,
        temperatures=torch.full((size, 1), temperature),
        sampling_seed=None,
        need_top_p_sampling="top_p" in kind,
        need_top_k_sampling="top_k" in kind,
        need_min_p_sampling="min_p" in kind,
        top_ks=torch.full((size,), kind.get("top_k", WORDS), dtype=torch.int32),
        top_ps=torch.full((size,), kind.get("top_p", 1.0)),
        min_ps=torch.full((size,), kind.get("min_p", 0.0)),
        max_top_k=kind.get("top_k"),
    )


def trees(drafts: list[list[int]], size: int) -> Any:
    """The same draft for everybody: a root and children, the first of which has a child."""
    (first, then), (second, _) = drafts
    tokens = torch.tensor([[ROOT, first, then, second]] * size)
    return SimpleNamespace(
        draft_token_num=4,
        draft_token=tokens.flatten(),
        retrieve_next_token=torch.tensor([[1, 2, -1, -1]] * size),
        retrieve_next_sibling=torch.tensor([[-1, 3, -1, -1]] * size),
    )


def pairs(verify: Verify, kind: Any) -> Tensor:
    """How often each pair of words follows the root, [words, words]."""
    tree, lengths = trees([[1, 3], [4, 0]], TRIALS), torch.ones(TRIALS, dtype=torch.int64)
    predicted, counts, path = verify(tree, FOLLOWS[tree.draft_token].clone(), kind, lengths)
    first = predicted[path[:, 0].long()].long()
    alone = counts < 2
    second = predicted[path[:, 1].clamp(min=0).long()].long()
    again = SimpleNamespace(
        draft_token_num=1,
        draft_token=first,
        retrieve_next_token=torch.full((TRIALS, 1), -1),
        retrieve_next_sibling=torch.full((TRIALS, 1), -1),
    )
    later = verify(again, FOLLOWS[first].clone(), kind, lengths)[0].long()
    return torch.bincount(first * WORDS + torch.where(alone, later, second), minlength=WORDS**2).view(WORDS, WORDS)


def expected(temperature: float, keep: Callable[[Tensor], Tensor]) -> Tensor:
    follows = torch.stack([keep(row) for row in torch.softmax(FOLLOWS / temperature, 1)])
    return TRIALS * follows[ROOT][:, None] * follows


def chi_squared(seen: Tensor, wanted: Tensor) -> float:
    possible = wanted > 1e-9
    assert not seen[~possible].any(), "a token that cannot be was sampled"
    return float(((seen - wanted)[possible] ** 2 / wanted[possible]).sum())


def nucleus(row: Tensor) -> Tensor:
    """SGLang's order: top-k first, then top-p."""
    ordered, places = row.sort(descending=True)
    kept = torch.where(torch.arange(WORDS) < TOP_K, ordered, 0)
    kept = torch.where(kept.cumsum(0) - kept > TOP_P, 0, kept)
    return torch.zeros(WORDS).scatter(0, places, kept / kept.sum())


def likely(row: Tensor) -> Tensor:
    kept = torch.where(row >= MIN_P * row.max(), row, 0)
    return kept / kept.sum()


# Of a chi-squared distribution with 24 degrees of freedom, 1 in 100,000 lies above.
LIMIT = 66.0


@pytest.mark.parametrize(
    ("temperature", "kind", "keep"),
    [
        (1.0, {}, lambda row: row),
        (0.5, {}, lambda row: row),
        (1.0, {"top_p": TOP_P, "top_k": TOP_K}, nucleus),
        (1.0, {"min_p": MIN_P}, likely),
    ],
)
def test_drafts_do_not_change_the_distribution(
    temperature: float, kind: dict[str, Any], keep: Callable[[Tensor], Tensor]
) -> None:
    from sglang_paste.patches.draft_sample import sampled

    torch.manual_seed(7)
    seen = pairs(sampled, sampling(TRIALS, temperature, **kind))
    assert chi_squared(seen, expected(temperature, keep)) < LIMIT


def test_the_test_tells_a_verification_that_favours_drafts() -> None:
    from sglang_paste.patches.draft_sample import sampled

    def favouring(tree: Any, logits: Tensor, kind: Any, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if tree.draft_token_num > 1:
            logits[::4, 1] += 0.2
        return sampled(tree, logits, kind, lengths)

    torch.manual_seed(7)
    assert chi_squared(pairs(favouring, sampling(TRIALS, 1.0)), expected(1.0, lambda row: row)) > LIMIT


class Batch:
    """Of SGLang's batch what verification looks at."""

    def __init__(self, device: str, sampling: Any, size: int) -> None:
        self.device, self.sampling_info = device, sampling
        self.seq_lens = torch.ones(size, dtype=torch.int64)


@pytest.mark.parametrize(
    ("device", "kind", "ours"),
    [("cpu", {}, True), ("cuda", {}, False), ("cuda", {"min_p": MIN_P}, True), ("cpu", {"greedy": True}, False)],
)
def test_sglang_verifies_what_it_verifies_rightly(device: str, kind: dict[str, Any], ours: bool) -> None:
    from sglang_paste.patches.draft_sample import verifying

    greedy = kind.pop("greedy", False)
    tree, chosen = trees([[1, 3], [4, 0]], 2), sampling(2, 1.0, **kind)
    chosen.is_all_greedy = greedy
    output = SimpleNamespace(next_token_logits=FOLLOWS[tree.draft_token].clone())
    found = verifying(lambda *_: "theirs", tree, Batch(device, chosen, 2), output)
    assert (found != "theirs") is ours


@pytest.mark.parametrize("greedy", [False, True])
def test_a_requests_own_processor_has_the_last_word(greedy: bool) -> None:
    from sglang_paste.patches.draft_sample import verifying

    class Processor:
        def __call__(self, logits: Tensor, params: list[Any]) -> Tensor:
            assert len(logits) == len(params) == 1
            return torch.full_like(logits, -100.0).index_fill(1, torch.tensor([params[0]["only"]]), 100.0)

    size, tree, chosen = 3, trees([[1, 3], [4, 0]], 3), sampling(3, 1.0)
    chosen.has_custom_logit_processor, chosen.is_all_greedy, chosen.device = True, greedy, "cpu"
    entry = SimpleNamespace(rows=[1], indices=torch.tensor([1]), processor=Processor())
    chosen.custom_logit_processor, chosen.custom_params = {1: entry}, [{}, {"only": 0}, {}]
    tree.retrieve_next_token = torch.full((size, 4), -1)  # nothing is drafted beside a processor
    output = SimpleNamespace(next_token_logits=FOLLOWS[tree.draft_token].clone())
    tokens, counts, _ = verifying(lambda *_: None, tree, Batch("cuda", chosen, size), output)
    assert counts.tolist() == [1] * size
    assert tokens[4].item() == 0
    if greedy:
        assert tokens[0].item() == tokens[8].item() == 1, "the likeliest after the root"
