"""Attention where torch's bits depend on how many rows there are: each row alone, with numbers near torch's."""

import ctypes
import os
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_paste.patches.cpu import attention_kernel, compiled
from sglang_paste.patches.cpu.attention_batch import Request, rows_of
from sglang_paste.patches.cpu.attention_kernel import SingleQueries, rows_alike
from sglang_paste.patches.cpu.attention_math import attend

os.environ.setdefault("SGLANG_USE_CPU_ENGINE", "1")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from sglang_paste.patches.cpu import exact

pytestmark = [
    pytest.mark.host,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(not torch.cpu._is_avx2_supported(), reason="this processor has no AVX2"),
]
SHAPE = (6, 2, 64, 0.125)


@pytest.fixture(scope="module")
def library() -> ctypes.CDLL:
    library = compiled.load_library(compiled.ROWWISE["AVX512"])
    assert library is not None, "these tests need a C compiler: install gcc"
    return library


def numbers(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def test_a_draft_has_the_bits_of_the_same_token_decoded(library: ctypes.CDLL) -> None:
    single = SingleQueries(library, own_bits=True)
    heads, kv_heads, dim, scale = SHAPE
    keys, values, query = numbers(1, 700, kv_heads, dim), numbers(2, 700, kv_heads, dim), numbers(3, 9, heads, dim)
    slots = torch.randperm(700, generator=torch.Generator().manual_seed(4))[:609].int()
    drafts = [Request(slice(0, 9), slots)]
    among = single.attend(query, keys, values, rows_of(drafts), scale)
    for row in range(9):
        alone = rows_of([Request(slice(0, 1), slots[: 601 + row].contiguous())])
        assert torch.equal(among[row : row + 1], single.attend(query[row : row + 1], keys, values, alone, scale))
        mine = slots[: 601 + row].long()
        near = attend(query[row : row + 1].float(), keys[mine].float(), values[mine].float(), scale, causal=True)
        assert torch.allclose(among[row].float(), near[0], atol=0.02)


def test_what_is_not_near_is_not_served(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    assert SingleQueries(library, own_bits=True).gives_the_bits(*SHAPE)
    right = SingleQueries.attend
    monkeypatch.setattr(SingleQueries, "attend", lambda *rest: right(*rest) * 1.05)
    assert not SingleQueries(library, own_bits=True).gives_the_bits(*SHAPE)


def test_rows_are_alike_where_each_is_computed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def alone(query: Any, key: Any, value: Any, scale: float, *, mask: Any = None, **rest: Any) -> torch.Tensor:
        if mask is None:
            return attend(query, key, value, scale, **rest)
        counts = (mask == 0).sum(1).tolist()
        parts = [attend(q[None], key[:n], value[:n], scale, causal=True) for q, n in zip(query, counts, strict=True)]
        return torch.cat(parts)

    monkeypatch.setattr(attention_kernel, "attend", alone)
    assert rows_alike(*SHAPE)
    monkeypatch.setattr(
        attention_kernel,
        "attend",
        lambda *all, mask=None, **rest: (
            alone(*all, mask=mask, **rest) * 1.01 if mask is not None else alone(*all, **rest)
        ),
    )
    assert not rows_alike(*SHAPE)


@pytest.mark.parametrize("alike", [True, False])
def test_own_bits_are_for_where_torchs_depend_on_the_rows(monkeypatch: pytest.MonkeyPatch, alike: bool) -> None:
    layer = SimpleNamespace(tp_q_head_num=6, tp_k_head_num=2, qk_head_dim=64, scaling=0.125)
    monkeypatch.setattr(exact, "RadixAttention", SimpleNamespace)
    monkeypatch.setattr(exact, "rows_alike", lambda *shape: alike)
    model = SimpleNamespace(modules=lambda: [layer])
    refused: list[str] = []
    assert (exact._single_queries(model, "AVX512", refused) is None) is alike  # type: ignore[arg-type]
    assert refused == []
