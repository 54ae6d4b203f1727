"""Attention on plain tensors against the definition written out in float32."""

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from sglang_paste.patches.cpu import attention_math
from sglang_paste.patches.cpu.attention_math import attend, tree_mask

Attend = Callable[..., Any]


def brute_force(query: Any, key: Any, value: Any, scale: float, seen: Any) -> Any:
    """softmax over the seen keys, row by row and head by head, in float32."""
    group = query.shape[1] // key.shape[1]
    keys = key.float().repeat_interleave(group, dim=1)
    values = value.float().repeat_interleave(group, dim=1)
    scores = torch.einsum("rhd,khd->hrk", query.float(), keys) * scale
    weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
    return torch.einsum("hrk,khd->rhd", weights, values)


def causal_seen(rows: int, keys: int, window: int | None) -> Any:
    position = torch.arange(keys - rows, keys).unsqueeze(1)
    other = torch.arange(keys).unsqueeze(0)
    seen = other <= position
    return seen if window is None else seen & (other >= position - window)


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, Any]:
    rows = draw(st.integers(1, 40))
    return {
        "rows": rows,
        "keys": rows + draw(st.sampled_from([0, 1, 5, 63, 700])),
        "kv_heads": draw(st.integers(1, 3)),
        "group": draw(st.sampled_from([1, 2, 3, 7])),
        "dim": draw(st.sampled_from([8, 32, 64])),
        "value_dim": draw(st.sampled_from([None, 16, 80])),
        "window": draw(st.sampled_from([None, None, 0, 1, 17, 4096])),
        "seed": draw(st.integers(0, 2**31)),
        "dtype": draw(st.sampled_from([torch.float32, torch.bfloat16])),
    }


def tensors(shape: dict[str, Any]) -> tuple[Any, Any, Any]:
    generator = torch.Generator().manual_seed(shape["seed"])

    def normal(*size: int) -> Any:
        return torch.randn(*size, generator=generator).to(shape["dtype"])

    dim = shape["dim"]
    return (
        normal(shape["rows"], shape["kv_heads"] * shape["group"], dim),
        normal(shape["keys"], shape["kv_heads"], dim),
        normal(shape["keys"], shape["kv_heads"], shape["value_dim"] or dim),
    )


def close(found: Any, wanted: Any, dtype: Any) -> bool:
    tolerance = 1e-4 if dtype == torch.float32 else 3e-2
    return bool(torch.allclose(found.float(), wanted, atol=tolerance, rtol=tolerance))


def check_causal(shape: dict[str, Any], under_test: Attend) -> bool:
    query, key, value = tensors(shape)
    scale = shape["dim"] ** -0.5
    found = under_test(query, key, value, scale, causal=True, window=shape["window"])
    seen = causal_seen(shape["rows"], shape["keys"], shape["window"])
    return close(found, brute_force(query, key, value, scale, seen), shape["dtype"])


@given(shapes())
@settings(deadline=None)
def test_causal_rows_see_their_prefix_and_their_window(shape: dict[str, Any]) -> None:
    assert check_causal(shape, attend)


def test_the_property_catches_a_mask_that_is_one_off() -> None:
    def off_by_one(query: Any, key: Any, value: Any, scale: float, **how: Any) -> Any:
        return attend(query, key[:-1], value[:-1], scale, **how)

    shape = {"rows": 4, "keys": 9, "kv_heads": 1, "group": 2, "dim": 32, "value_dim": None, "window": None}
    assert not check_causal({**shape, "seed": 0, "dtype": torch.float32}, off_by_one)


@pytest.mark.parametrize("window", [None, 30])
def test_query_blocks_join_without_a_seam(monkeypatch: pytest.MonkeyPatch, window: int | None) -> None:
    shape = {"rows": 100, "keys": 163, "kv_heads": 2, "group": 3, "dim": 64, "value_dim": None, "window": window}
    shape |= {"seed": 1, "dtype": torch.float32}
    monkeypatch.setattr(attention_math, "QUERY_BLOCK", 7)
    assert check_causal(shape, attend)


def test_rows_of_an_extend_equal_those_of_the_whole_sequence_bit_for_bit() -> None:
    generator = torch.Generator().manual_seed(2)
    query, key, value = (torch.randn(1063, heads, 64, generator=generator).bfloat16() for heads in (9, 3, 3))
    whole = attend(query, key, value, 0.125, causal=True)
    tail = attend(query[-100:], key, value, 0.125, causal=True)
    assert torch.equal(whole[-100:], tail)


def test_every_row_sees_every_key_when_not_causal() -> None:
    generator = torch.Generator().manual_seed(3)
    query, key, value = (torch.randn(n, 2, 32, generator=generator) for n in (5, 11, 11))
    seen = torch.ones(5, 11, dtype=torch.bool)
    assert close(attend(query, key, value, 0.2, causal=False), brute_force(query, key, value, 0.2, seen), torch.float32)


def test_no_keys_give_zeros() -> None:
    out = attend(torch.ones(3, 4, 8), torch.ones(0, 2, 8), torch.ones(0, 2, 16), 1.0, causal=False)
    assert out.shape == (3, 4, 16)
    assert not out.any()


def random_tree(parents: list[int]) -> Any:
    """Row i marks itself and its ancestors; `parents[i] < i`, the root's is itself."""
    tree = torch.zeros(len(parents), len(parents), dtype=torch.bool)
    for node, parent in enumerate(parents):
        if node:
            tree[node] = tree[parent]
        tree[node, node] = True
    return tree


@st.composite
def trees(draw: st.DrawFn) -> Any:
    size = draw(st.integers(1, 12))
    return random_tree([draw(st.integers(0, max(0, node - 1))) for node in range(size)])


@given(tree=trees(), prefix=st.sampled_from([0, 1, 9, 120]), window=st.sampled_from([None, 0, 3, 200]))
@settings(deadline=None)
def test_a_draft_equals_the_last_token_of_its_own_path(tree: Any, prefix: int, window: int | None) -> None:
    drafts = tree.shape[0]
    generator = torch.Generator().manual_seed(drafts + prefix)
    query = torch.randn(drafts, 4, 32, generator=generator)
    key, value = (torch.randn(prefix + drafts, 2, 32, generator=generator) for _ in range(2))
    mask = tree_mask(tree, prefix, window, torch.float32)
    found = attend(query, key, value, 0.18, causal=True, mask=mask)
    for node in range(drafts):
        path = torch.cat([torch.arange(prefix), prefix + tree[node].nonzero()[:, 0]])
        alone = attend(query[node : node + 1], key[path], value[path], 0.18, causal=True, window=window)
        assert torch.allclose(found[node : node + 1], alone, atol=1e-5)
