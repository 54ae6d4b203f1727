"""A row of a product has the same bits alone and among others, also where torch adds up a single one differently."""

import os
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import linear

os.environ.setdefault("SGLANG_USE_CPU_ENGINE", "1")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from sglang.srt.layers.quantization.unquant import UnquantizedLinearMethod

    from sglang_paste.patches.cpu import exact_modules

pytestmark = pytest.mark.host
SIZE, OUTS = 128, 192


class Product(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(OUTS, SIZE).bfloat16(), requires_grad=False)
        self.quant_method = UnquantizedLinearMethod()

    def forward(self, x: torch.Tensor) -> Any:
        return self.quant_method.apply(self, x)


def lonely(blocks: int) -> Any:
    """A product that adds up a single row in two blocks, and several in so many."""

    def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        count = 2 if x.shape[0] == 1 else blocks
        # What one thread adds up at a time is the same for every row.
        rows = [
            sum(linear(a[None], b).float() for a, b in zip(row.chunk(count), weight.chunk(count, 1), strict=True))
            for row in x
        ]
        return torch.cat(rows).bfloat16()  # type: ignore[arg-type]

    return product


@pytest.mark.parametrize(("blocks", "paired"), [(4, True), (2, False)])
def test_a_single_row_is_taken_for_two_where_that_gives_it_the_bits_of_several(
    monkeypatch: pytest.MonkeyPatch, blocks: int, paired: bool
) -> None:
    product = lonely(blocks)
    monkeypatch.setattr(exact_modules, "linear", product)
    monkeypatch.setattr(UnquantizedLinearMethod, "apply", lambda self, layer, x, bias=None: product(x, layer.weight))
    model = Product()
    parts, refused = exact_modules.parts_of(model, SimpleNamespace(takes=lambda size: False))  # type: ignore[arg-type]
    assert [part.kind for part in parts] == [exact_modules.PAIRED] * paired
    assert bool(refused) is not paired
    for part in parts:
        setattr(part.owner, part.name, part.replacement)
    x = torch.randn(9, SIZE, generator=torch.Generator().manual_seed(1)).bfloat16()
    alone = torch.cat([model(row[None]) for row in x])
    assert torch.equal(alone, model(x))
    assert torch.equal(alone, torch.cat([product(row[None], model.weight) for row in x])) is not paired


def test_where_rows_differ_among_several_nothing_is_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    several = lonely(4)

    def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> Any:
        return several(x, weight) if x.shape[0] < 9 else lonely(8)(x, weight)

    monkeypatch.setattr(exact_modules, "linear", product)
    kernels: Any = SimpleNamespace(takes=lambda size: False)
    parts, refused = exact_modules.parts_of(Product(), kernels)
    assert not parts
    assert refused == [f"linear layers of [{OUTS}, {SIZE}] torch.bfloat16"]
