"""Arming a model: what is replaced, what is refused, and what goes back to the original."""

import logging
import os
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from cpu_kernels import CAPABILITY, needs_kernels
from torch.nn.functional import linear

from sglang_paste.errors import ConfigError

os.environ.setdefault("SGLANG_USE_CPU_ENGINE", "1")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from sglang.srt.layers.activation import SiluAndMul
    from sglang.srt.layers.layernorm import RMSNorm
    from sglang.srt.layers.quantization.unquant import UnquantizedLinearMethod
    from sglang.srt.layers.rotary_embedding.base import RotaryEmbedding

    from sglang_paste.patches.cpu import exact, exact_modules
    from sglang_paste.patches.cpu.kernels import Kernels

pytestmark = [pytest.mark.host, pytest.mark.usefixtures("one_thread"), needs_kernels]
SIZE, OUTS, DIM = 128, 192, 64


class Product(torch.nn.Module):
    def __init__(self, bias: bool, dtype: Any = torch.bfloat16) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(OUTS, SIZE).to(dtype), requires_grad=False)
        self.bias = torch.nn.Parameter(torch.randn(OUTS).to(dtype), requires_grad=False) if bias else None
        self.quant_method = UnquantizedLinearMethod()

    def forward(self, x: Any) -> Any:
        return self.quant_method.apply(self, x, self.bias)


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.plain, self.biased = Product(False), Product(True)
        self.norm = RMSNorm(SIZE).bfloat16()
        self.gate = SiluAndMul()
        self.rotary = RotaryEmbedding(DIM, DIM, 64, 10000, True, torch.bfloat16)


def runner(**changes: Any) -> Any:
    return SimpleNamespace(**({"model": Model(), "token_to_kv_pool": None, "server_args": None} | changes))


def calls(model: Model, rows: int) -> list[Any]:
    """What every part of the model makes of the same inputs."""
    random = torch.Generator().manual_seed(rows)
    x, residual = (torch.randn(rows, SIZE, generator=random).bfloat16() for _ in range(2))
    positions = torch.randint(0, 64, (rows,), generator=random)
    return [
        model.plain(x),
        model.biased(x),
        model.norm(x),
        *model.norm(x, residual),
        model.gate(x),
        *model.rotary(positions, x, residual[:, :DIM]),
        # not dense: SGLang's own ways
        model.plain(torch.randn(rows, 2 * SIZE, generator=random).bfloat16()[:, ::2]),
        model.gate(torch.randn(rows, 24, generator=random).bfloat16()),
    ]


@pytest.mark.parametrize("rows", [1, 2, 30])
def test_an_armed_model_gives_the_same_bits(rows: int) -> None:
    served = runner()
    wanted = calls(served.model, rows)
    armed = exact.arm(served)
    assert armed is not None
    assert {part.kind for part in armed.parts} == {"linear layers", "norms", "gates", "rotations"}
    assert isinstance(served.model.plain.quant_method, exact_modules.ExactLinearMethod)
    assert all(exact_modules.same(one, other) for one, other in zip(calls(served.model, rows), wanted, strict=True))


def test_the_kernels_are_what_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    served = runner()
    assert exact.arm(served) is not None
    x = torch.zeros(2, SIZE).bfloat16()
    for name, part in (("linear", served.model.plain), ("norm", served.model.norm), ("gate", served.model.gate)):
        monkeypatch.setattr(Kernels, name, lambda *_rest, **_more: ["called"])
        assert "called" in part(x)


def test_disarm_puts_everything_back_and_arm_again_does_not_add() -> None:
    served = runner()
    model = served.model
    before = [dict(vars(module)) for module in model.modules()]
    method = model.plain.quant_method
    armed = exact.arm(served)
    assert armed is not None
    assert exact.arm(served) is armed
    armed.disarm()
    assert not armed.armed
    vars(model).pop("_sglang_paste_exact")
    assert [dict(vars(module)) for module in model.modules()] == before
    assert model.plain.quant_method is method


def test_a_changed_weight_counts_at_once() -> None:
    served = runner()
    exact.arm(served)
    model, x = served.model, torch.randn(2, SIZE).bfloat16()
    model.plain(x)
    model.plain.weight.data.copy_(torch.randn(OUTS, SIZE).bfloat16())
    assert torch.equal(model.plain(x), linear(x, model.plain.weight))


@pytest.mark.skipif(CAPABILITY != "AVX512", reason="with AVX2 nothing depends on the number of threads")
def test_several_rows_stay_with_torch_when_it_has_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    served = runner()
    exact.arm(served)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(Kernels, "linear", lambda *_rest, **_more: "ours")
    assert served.model.plain(torch.zeros(1, SIZE).bfloat16()) == "ours"
    assert isinstance(served.model.plain(torch.zeros(2, SIZE).bfloat16()), torch.Tensor)


def test_what_differs_by_a_bit_is_left_to_torch(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    right = Kernels.linear

    def wrong(self: Kernels, *rest: Any, **more: Any) -> Any:
        out = right(self, *rest, **more)
        out.view(torch.int16)[-1, -1] ^= 1
        return out

    monkeypatch.setattr(Kernels, "linear", wrong)
    served = runner()
    with caplog.at_level(logging.INFO):
        armed = exact.arm(served)
    assert armed is not None
    assert {part.kind for part in armed.parts} == {"norms", "gates", "rotations"}
    assert type(served.model.plain.quant_method) is UnquantizedLinearMethod
    assert f"left to torch: linear layers of [{OUTS}, {SIZE}]" in caplog.text


def test_other_types_are_left_to_torch() -> None:
    served = runner(model=torch.nn.ModuleList([Product(False, torch.float32), Product(True, torch.float16)]))
    armed = exact.arm(served)
    assert armed is not None
    assert not armed.parts


def test_the_operator_can_keep_torch(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv(exact.CHOICE, "torch")
    with caplog.at_level(logging.INFO):
        assert exact.arm(runner()) is None
    assert "SGLANG_PASTE_CPU_KERNELS is torch" in caplog.text
    monkeypatch.setenv(exact.CHOICE, "fast")
    with pytest.raises(ConfigError, match="must be auto or torch, not 'fast'"):
        exact.arm(runner())


def test_a_model_that_is_compiled_by_torch_is_left_alone() -> None:
    assert exact.arm(runner(server_args=SimpleNamespace(enable_torch_compile=True))) is None
