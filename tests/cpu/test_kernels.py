"""The compiled kernels against torch, bit for bit; sums of rounding errors alone show the order of every addition."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from cpu_kernels import CAPABILITY, needs_kernels
from hypothesis import HealthCheck, given, settings
from torch.nn.functional import linear, silu

from sglang_paste.patches.cpu import compiled, kernels

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("one_thread"), needs_kernels]
relaxed = settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
seeds = st.integers(0, 2**31)


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Any:
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def built() -> kernels.Kernels:
    library = compiled.load_library(compiled.BUILDS[CAPABILITY])
    assert library is not None, "these tests need a C compiler: install gcc"
    return kernels.Kernels(library, CAPABILITY)


def cancelling(rows: int, size: int, outs: int, seed: int) -> tuple[Any, Any]:
    """Inputs and weights whose exact products are zero."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, size, generator=random).bfloat16()
    weight = torch.randn(outs, size, generator=random).bfloat16()
    half = size // 2
    x[:, half:], weight[:, half:] = x[:, :half], -weight[:, :half]
    order = torch.randperm(size, generator=random)
    return x[:, order], weight[:, order]


def same(ours: Any, theirs: Any) -> bool:
    return bool((ours.view(torch.int16) == theirs.contiguous().view(torch.int16)).all())


@given(
    rows=st.sampled_from([1, 2, 3, 4, 5, 11, 12, 13, 40, 49, 119, 121, 250]),
    size=st.sampled_from([16, 48, 64, 96, 128, 384, 448, 576, 896, 1536, 1600, 2304]),
    outs=st.sampled_from([1, 15, 16, 31, 32, 33, 192]),
    biased=st.booleans(),
    seed=seeds,
)
@relaxed
def test_a_product_has_the_bits_of_torch(
    built: kernels.Kernels, rows: int, size: int, outs: int, biased: bool, seed: int
) -> None:
    x, weight = cancelling(rows, size, outs, seed)
    bias = torch.randn(outs, generator=torch.Generator().manual_seed(seed)).bfloat16() if biased else None
    # Few multiplications go another way in torch; models have none so small.
    if built.takes(size) and built.serves(rows, size) and rows * size * outs > 16**3 and outs > 1:
        assert same(built.linear(x, weight, bias), linear(x, weight, bias))


@pytest.mark.parametrize("rows", [1, 12])
def test_another_order_of_additions_is_noticed(built: kernels.Kernels, rows: int) -> None:
    x, weight = cancelling(rows, 576, 64, 5)
    order = torch.randperm(576, generator=torch.Generator().manual_seed(1))
    other = built.linear(x[:, order], weight[:, order])
    assert same(built.linear(x, weight), linear(x, weight))
    assert not same(other, linear(x, weight))


@pytest.mark.skipif(CAPABILITY != "AVX2", reason="with AVX-512, torch adds up a row alone in another order")
@pytest.mark.parametrize("threads", [1, 3], indirect=True)
def test_a_row_has_the_same_bits_among_any_others(built: kernels.Kernels, threads: None) -> None:
    x, weight = cancelling(50, 576, 70, 9)
    alone = torch.cat([built.linear(row, weight) for row in x.split(1)])
    for rows in range(2, 51):
        assert same(built.linear(x[:rows], weight), alone[:rows])
    assert same(linear(x, weight), alone)


@pytest.mark.skipif(CAPABILITY != "AVX512", reason="the processor has no AVX-512")
def test_the_kernels_for_avx2_where_torch_is_told_to_use_it() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__))]
    subprocess.run(command, check=True, env={**os.environ, "ATEN_CPU_CAPABILITY": "avx2"}, timeout=120)


def test_inputs_of_every_size_are_multiplied(built: kernels.Kernels) -> None:
    for scale in (2.0**-60, 1.0, 2.0**60):
        x, weight = cancelling(4, 128, 64, 3)
        assert same(built.linear(x * scale, weight * scale), linear(x * scale, weight * scale))


def test_an_output_may_be_given(built: kernels.Kernels) -> None:
    x, weight = cancelling(3, 128, 64, 3)
    out = torch.full((3, 64), torch.nan, dtype=torch.bfloat16)
    assert built.linear(x, weight, out=out) is out
    assert same(out, linear(x, weight))


@given(rows=st.integers(1, 9), size=st.sampled_from([16, 48, 64, 576, 1040, 4096, 8192]), seed=seeds)
@relaxed
def test_a_norm_has_the_bits_of_torch(built: kernels.Kernels, rows: int, size: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    x, residual = (torch.randn(rows, size, generator=random).bfloat16() * 3 for _ in range(2))
    weight = torch.randn(size, generator=random).bfloat16()
    total = x.float() + residual.float()
    out, kept = built.norm(x, residual, weight, 1e-5)
    assert kept is not None
    assert same(kept, total.bfloat16())
    assert same(out, normed(total, weight))
    assert same(built.norm(x, None, weight, 1e-5)[0], normed(x.float(), weight))
    built.norm(x, residual, weight, 1e-5, kept=residual)
    assert same(residual, kept)


def normed(x: Any, weight: Any) -> Any:
    return (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * weight).bfloat16()


def test_a_norm_with_another_epsilon_is_noticed(built: kernels.Kernels) -> None:
    x, weight = torch.randn(64, 576).bfloat16(), torch.ones(576).bfloat16()
    assert not same(built.norm(x, None, weight, 2e-3)[0], normed(x.float(), weight))


def test_every_value_goes_through_the_gate(built: kernels.Kernels) -> None:
    table = silu(kernels.every_value())
    values = kernels.every_value()
    values = values[values.isfinite()].view(-1, 16 * 2)
    up = torch.randn(values.shape, generator=torch.Generator().manual_seed(2)).bfloat16()
    assert same(built.gate(torch.cat([values, up], 1), table), silu(values) * up)


@given(rows=st.integers(1, 5), heads=st.integers(1, 4), dim=st.sampled_from([32, 64, 128]), seed=seeds)
@relaxed
def test_a_rotation_has_the_bits_of_torch(built: kernels.Kernels, rows: int, heads: int, dim: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    table = torch.randn(50, dim, generator=random).bfloat16()
    wide = torch.randn(rows, (heads + 1) * dim, generator=random).bfloat16()
    x, positions = wide[:, dim:], torch.randint(0, 50, (rows,), generator=random)
    cosine, sine = table[positions].unsqueeze(1).chunk(2, dim=-1)
    a, b = x.unflatten(1, (heads, dim)).chunk(2, dim=-1)
    turned = built.rotate(x, dim, positions, table)
    assert turned is not None
    assert same(turned, torch.cat([a * cosine - b * sine, b * cosine + a * sine], -1).flatten(1))


@pytest.mark.parametrize("position", [-1, 50])
def test_a_position_beyond_the_table_is_refused(built: kernels.Kernels, position: int) -> None:
    x, table = torch.zeros(2, 64).bfloat16(), torch.zeros(50, 64).bfloat16()
    assert built.rotate(x, 64, torch.tensor([3, position]), table) is None
