"""Rejection sampling: what comes out has the target's distribution, whatever was drafted."""

import ast
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Optional

import pytest
import torch
from torch import Tensor

from sglang_paste.kernels.draft_pack import Pack, draft_pack
from sglang_paste.kernels.verify import reference, target_probs, tree_speculative_sampling_target_only, verify

Settings = tuple[float, int, float, float]

VOCAB, WIDTH, DRAWS = 6, 8, 2500
DRAFTS = torch.tensor([[[1, 2, 3], [1, 4, 3], [5, 0, 0]]])
# a made-up model: the logits after a token at a depth
LOGITS = 2 * torch.randn((8, VOCAB, VOCAB), generator=torch.Generator().manual_seed(3))
# chi-square with 35 degrees of freedom stays below this in 99.9 % of all samples
LIMIT = 66.6


def packed(batch: int, drafts: Tensor = DRAFTS) -> Pack:
    ones = torch.ones(batch, dtype=torch.int64)
    counts = torch.full((batch, drafts.shape[1]), drafts.shape[2])
    return draft_pack(0 * ones, drafts.expand(batch, -1, -1), counts, ones, WIDTH * ones, width=WIDTH)


def logits_after(pack: Pack) -> Tensor:
    return LOGITS[pack.positions - 1, pack.tokens]


def drawn(batch: int, settings: Settings, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """What `verify` writes for the same draft in every row, each with coins of its own."""
    pack = packed(batch)
    generator = torch.Generator().manual_seed(seed)
    coins, final = torch.rand((batch, WIDTH), generator=generator), torch.rand(batch, generator=generator)
    out = poisoned(batch)
    links = (pack.retrieve_index, pack.retrieve_next_token, pack.retrieve_next_sibling)
    each = (torch.full((batch, 1), value) for value in settings)
    verify(logits_after(pack), pack.tokens.view(batch, WIDTH), *links, *each, coins, final, *out)
    return out


def poisoned(batch: int) -> tuple[Tensor, Tensor, Tensor]:
    places = torch.full((batch, WIDTH), -1, dtype=torch.int32)
    return torch.full((batch * WIDTH,), -7, dtype=torch.int32), places, torch.full((batch,), -7, dtype=torch.int32)


def weights_after(depth: int, token: int, settings: Settings) -> Tensor:
    weights = target_probs(LOGITS[depth, token], *settings).double()
    return weights / weights.sum()


def distance(predicts: Tensor, places: Tensor, settings: Settings) -> float:
    """Pearson's statistic of the first two tokens against sampling without a draft, rare pairs counted as one; infinite
    for a pair that cannot be. Where only one token came out, the second is drawn from the model."""
    rest = torch.stack([weights_after(1, token, settings) for token in range(VOCAB)])
    first = predicts[places[:, 0].long()].long()
    second = predicts[places[:, 1].clamp(0).long()].long()
    drawn = torch.multinomial(rest[first], 1, generator=torch.Generator().manual_seed(9))[:, 0]
    second = torch.where(places[:, 1] >= 0, second, drawn)
    expected = (weights_after(0, 0, settings)[:, None] * rest).view(-1) * len(places)
    seen = torch.bincount(first * VOCAB + second, minlength=VOCAB * VOCAB).double()
    if seen[expected == 0].any():
        return float("inf")
    rare = expected < 5
    expected = torch.cat([expected[~rare], expected[rare].sum()[None]])
    seen = torch.cat([seen[~rare], seen[rare].sum()[None]])
    return float(((seen - expected) ** 2 / expected.clamp(1e-9)).sum())


SETTINGS = {
    "temperature": (0.8, 1 << 30, 1.0, 0.0),
    "top-k": (1.3, 3, 1.0, 0.0),
    "top-p": (1.0, 1 << 30, 0.7, 0.0),
    "min-p": (1.5, 1 << 30, 1.0, 0.2),
    "all": (1.5, 4, 0.9, 0.05),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_what_is_sampled_has_the_targets_distribution(name: str) -> None:
    predicts, places, number = drawn(DRAWS, SETTINGS[name])
    assert distance(predicts, places, SETTINGS[name]) < LIMIT
    assert 0 < number.float().mean() < 3, "some drafts were kept and some were not"
    assert torch.equal((places >= 0).sum(1), number + 1)


def keeps_too_much(*arguments: object) -> int | None:
    return real_kept_child(*arguments[:3], 0.9, 0.7)  # type: ignore[arg-type]


def keeps_what_was_rejected(*arguments: object) -> int | None:
    tree, node, left, *thresholds = arguments
    return real_kept_child(tree, node, left.clone(), *thresholds)  # type: ignore[attr-defined, arg-type]


real_kept_child = reference._kept_child


@pytest.mark.parametrize("broken", [keeps_too_much, keeps_what_was_rejected])
def test_a_broken_sampler_is_caught(broken: Callable[..., int | None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "_kept_child", broken)
    settings = SETTINGS["temperature"]
    predicts, places, _ = drawn(DRAWS, settings)
    assert distance(predicts, places, settings) > 2 * LIMIT


def test_the_same_coins_give_the_same_tokens() -> None:
    first, again, other = (drawn(50, SETTINGS["all"], seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


def test_greedy_rows_get_the_argmax_beside_sampled_ones() -> None:
    pack, batch = packed(4), 4
    logits, out = logits_after(pack), poisoned(batch)
    links = (pack.retrieve_index, pack.retrieve_next_token, pack.retrieve_next_sibling)
    top_ks = torch.tensor([1, 1 << 30, 1, 1 << 30])
    ones, coins = torch.ones(batch), torch.rand((batch, WIDTH), generator=torch.Generator().manual_seed(1))
    verify(
        logits, pack.tokens.view(batch, -1), *links, ones, top_ks, ones, 0 * ones, coins, coins[:, 0].contiguous(), *out
    )
    for row in (0, 2):
        kept = out[1][row][out[1][row] >= 0].long()
        assert out[0][kept].tolist() == logits[kept].argmax(1).tolist()
        assert len(kept) == out[2][row] + 1


@pytest.mark.host
def test_greedy_rows_are_those_of_sglangs_greedy_verification() -> None:
    from sgl_kernel.speculative import verify_tree_greedy_cpu

    batch, generator = 64, torch.Generator().manual_seed(4)
    pack = packed(batch)
    logits = torch.randint(0, 3, (batch * WIDTH, VOCAB), generator=generator).float()
    candidates, ours, theirs = pack.tokens.view(batch, -1), poisoned(batch), poisoned(batch)
    links = (pack.retrieve_index, pack.retrieve_next_token, pack.retrieve_next_sibling)
    ones, coins = torch.ones(batch), torch.rand((batch, WIDTH), generator=generator)
    verify(logits, candidates, *links, ones, ones.int(), ones, 0 * ones, coins, coins[:, 0], *ours)
    verify_tree_greedy_cpu(*theirs, candidates, *links, logits.argmax(1).view(batch, -1))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_sglangs_arguments_give_what_verify_gives() -> None:
    batch, settings = 200, SETTINGS["all"]
    pack, generator = packed(batch), torch.Generator().manual_seed(7)
    coins, final = torch.rand((batch, WIDTH), generator=generator), torch.rand(batch, generator=generator)
    logits, out = logits_after(pack), poisoned(batch)
    probs = torch.stack([target_probs(row, *settings) for row in logits])
    probs = (probs / probs.sum(1, keepdim=True)).view(batch, WIDTH, VOCAB)
    tree_speculative_sampling_target_only(
        predicts=out[0],
        accept_index=out[1],
        accept_token_num=out[2],
        candidates=pack.tokens.view(batch, WIDTH),
        retrive_index=pack.retrieve_index,
        retrive_next_token=pack.retrieve_next_token,
        retrive_next_sibling=pack.retrieve_next_sibling,
        uniform_samples=coins,
        uniform_samples_for_final_sampling=final,
        target_probs=probs,
        draft_probs=torch.zeros_like(probs),
        threshold_single=1.0,
        threshold_acc=1.0,
        deterministic=True,
    )
    assert all(torch.equal(a, b) for a, b in zip(out, drawn(batch, settings, 7), strict=True))


def sglangs_filter() -> Callable[..., tuple[Tensor, ...]]:
    """SGLang's function alone: importing its module takes longer than all tests here."""
    (package,) = find_spec("sglang").submodule_search_locations  # type: ignore[union-attr, misc]
    body = ast.parse(Path(package, "srt/layers/sampler.py").read_text()).body
    name, scope = "top_k_top_p_min_p_sampling_from_probs_torch", {"torch": torch, "Optional": Optional}
    function = next(node for node in body if isinstance(node, ast.FunctionDef) and node.name == name)
    exec(compile(ast.Module([function], []), name, "exec"), scope)  # noqa: S102
    return scope[name]


@pytest.mark.host
@pytest.mark.parametrize("few", [1, 7, 1024])
def test_weights_are_those_sglang_samples_from(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "FEW", few)
    filtered = sglangs_filter()
    logits = torch.randn((20, 50), generator=torch.Generator().manual_seed(2))
    for temperature, top_k, top_p, min_p in SETTINGS.values():
        each = (torch.full((20,), value) for value in (top_k, top_p, min_p))
        _, weights, ids, _ = filtered(
            torch.softmax(logits / temperature, -1), *each, min_p > 0, None, None, return_filtered_probs=True
        )
        theirs = torch.zeros_like(logits).scatter_(1, ids.long(), weights)
        ours = torch.stack([target_probs(row, temperature, top_k, top_p, min_p) for row in logits])
        assert torch.equal(ours, theirs)


def test_a_token_that_is_impossible_is_never_drawn() -> None:
    weights = torch.tensor([0.0, 0.3, 0.0, 0.7, 0.0], dtype=torch.float64)
    largest = 1 - 2**-24
    assert [reference._draw(weights, coin) for coin in (0.0, 0.29, 0.31, largest)] == [1, 1, 3, 3]
