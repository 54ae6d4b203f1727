"""`paste_cpu` against SGLang's own `torch_native`, on the same pools, over random batches."""

import os
import warnings
from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from sglang_paste.errors import ConfigError

os.environ.setdefault("SGLANG_USE_CPU_ENGINE", "1")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
    from sglang.srt.layers.radix_attention import AttentionType, RadixAttention
    from sglang.srt.model_executor.forward_batch_info import ForwardMode

    from sglang_paste.patches.cpu.attention_backend import PasteCpuBackend

pytestmark = pytest.mark.host
SLOTS = 4096


class Pool:
    """A key and value buffer of one layer, written and read as SGLang's pools are."""

    def __init__(self, kv_heads: int, dim: int, value_dim: int, dtype: Any) -> None:
        self.dtype = dtype
        self.keys = torch.zeros(SLOTS, kv_heads, dim).to(dtype)
        self.values = torch.zeros(SLOTS, kv_heads, value_dim).to(dtype)

    def set_kv_buffer(self, layer: Any, location: Any, k: Any, v: Any) -> None:
        self.keys[location.loc] = k.to(self.dtype)
        self.values[location.loc] = v.to(self.dtype)

    def get_key_buffer(self, layer_id: int) -> Any:
        return self.keys

    def get_value_buffer(self, layer_id: int) -> Any:
        return self.values


def runner(pool: Any, req_to_token: Any, *layers: Any, **changes: Any) -> Any:
    fields = {
        "device": "cpu",
        "req_to_token_pool": SimpleNamespace(req_to_token=req_to_token),
        "token_to_kv_pool": pool,
        "use_mla_backend": False,
        "model": torch.nn.ModuleList(layers),
    }
    return SimpleNamespace(**(fields | changes))


@st.composite
def batches(draw: st.DrawFn) -> dict[str, Any]:
    count = draw(st.integers(1, 4))
    value_dim = draw(st.sampled_from([None, None, 16]))
    return {
        "prefix": [draw(st.sampled_from([0, 0, 1, 30, 257])) for _ in range(count)],
        "new": [draw(st.sampled_from([1, 2, 9, 70])) for _ in range(count)],
        "kv_heads": draw(st.integers(1, 3)),
        "group": draw(st.sampled_from([1, 2, 3])),
        "dim": 32,
        "value_dim": value_dim,
        "window": draw(st.sampled_from([-1, -1, 8, 100])),
        "pool": torch.bfloat16 if value_dim else draw(st.sampled_from([torch.bfloat16, torch.float8_e4m3fn])),
        "shuffled": draw(st.booleans()),
        "attention": draw(st.sampled_from([AttentionType.DECODER, AttentionType.DECODER, AttentionType.ENCODER_ONLY])),
        "save": draw(st.booleans()),
        "seed": draw(st.integers(0, 2**31)),
    }


class Case:
    """The tensors of a drawn batch; `run` computes it with one backend on pools of its own."""

    def __init__(self, drawn: dict[str, Any]) -> None:
        self.drawn = drawn
        generator = torch.Generator().manual_seed(drawn["seed"])
        kv_heads, dim, value_dim = drawn["kv_heads"], drawn["dim"], drawn["value_dim"] or drawn["dim"]
        heads, tokens = kv_heads * drawn["group"], sum(drawn["new"])

        def normal(*size: int) -> Any:
            return torch.randn(*size, generator=generator).bfloat16()

        self.q, self.k, self.v = (
            normal(tokens, heads * dim),
            normal(tokens, kv_heads, dim),
            normal(tokens, kv_heads, value_dim),
        )
        self.layer = RadixAttention(
            heads,
            dim,
            dim**-0.5,
            kv_heads,
            layer_id=0,
            v_head_dim=value_dim,
            sliding_window_size=drawn["window"],
            attn_type=drawn["attention"],
        )
        self.old_keys, self.old_values = normal(SLOTS, kv_heads, dim), normal(SLOTS, kv_heads, value_dim)
        self.lengths = [prefix + new for prefix, new in zip(drawn["prefix"], drawn["new"], strict=True)]
        slots = torch.randperm(SLOTS - 1, generator=generator) + 1 if drawn["shuffled"] else torch.arange(1, SLOTS)
        self.req_to_token = torch.zeros(8, 512, dtype=torch.int32)
        first, self.out = 0, []
        for row, (prefix, length) in enumerate(zip(drawn["prefix"], self.lengths, strict=True)):
            mine = slots[first : first + length]
            self.req_to_token[row + 1, :length] = mine.int()
            self.out.append(mine[prefix:])
            first += length

    def run(self, backend_class: Any, mode: Any) -> Any:
        drawn = self.drawn
        pool = Pool(drawn["kv_heads"], drawn["dim"], drawn["value_dim"] or drawn["dim"], drawn["pool"])
        pool.keys.copy_(self.old_keys)
        pool.values.copy_(self.old_values)
        count = len(self.lengths)
        batch = SimpleNamespace(
            forward_mode=mode,
            batch_size=count,
            req_pool_indices=torch.arange(1, count + 1),
            seq_lens=torch.tensor(self.lengths),
            extend_prefix_lens=torch.tensor(drawn["prefix"], dtype=torch.int32),
            extend_seq_lens=torch.tensor(drawn["new"], dtype=torch.int32),
            encoder_lens=None,
            out_cache_loc=torch.cat(self.out),
        )
        backend = backend_class(runner(pool, self.req_to_token, self.layer))
        backend.init_forward_metadata(batch)
        return backend.forward(self.q, self.k, self.v, self.layer, batch, drawn["save"])


def same(case: Case, backend_class: Any, mode: Any = ForwardMode.EXTEND) -> bool:
    ours, theirs = case.run(backend_class, mode), case.run(TorchNativeAttnBackend, mode)
    return ours.shape == theirs.shape and bool(torch.allclose(ours.float(), theirs.float(), atol=2e-2, rtol=2e-2))


@given(batches())
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_an_extend_equals_torch_native(drawn: dict[str, Any]) -> None:
    assert same(Case(drawn), PasteCpuBackend)


@given(batches())
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_a_decode_equals_torch_native(drawn: dict[str, Any]) -> None:
    # A model that only encodes never decodes.
    decoding = {"new": [1] * len(drawn["new"]), "attention": AttentionType.DECODER}
    assert same(Case(drawn | decoding), PasteCpuBackend, ForwardMode.DECODE)


PLAIN = {
    "prefix": [30, 0, 5],
    "new": [9, 4, 1],
    "kv_heads": 2,
    "group": 3,
    "dim": 32,
    "value_dim": None,
    "window": -1,
    "pool": torch.bfloat16,
    "shuffled": True,
    "attention": AttentionType.DECODER,
    "save": True,
    "seed": 7,
}


def test_the_comparison_catches_a_backend_that_forgets_the_prefix() -> None:
    class Forgetful(PasteCpuBackend):
        def init_forward_metadata(self, forward_batch: Any) -> None:
            super().init_forward_metadata(
                SimpleNamespace(**vars(forward_batch) | {"seq_lens": forward_batch.extend_seq_lens})
            )

    assert same(Case(PLAIN), PasteCpuBackend)
    assert not same(Case(PLAIN), Forgetful)


def verify(case: Case, mask: Any) -> Any:
    """The drawn new tokens of equal number as drafts of every request."""
    drawn, count, drafts = case.drawn, len(case.lengths), case.drawn["new"][0]
    pool = Pool(drawn["kv_heads"], drawn["dim"], drawn["dim"], drawn["pool"])
    pool.keys.copy_(case.old_keys)
    pool.values.copy_(case.old_values)
    batch = SimpleNamespace(
        forward_mode=ForwardMode.TARGET_VERIFY,
        batch_size=count,
        req_pool_indices=torch.arange(1, count + 1),
        seq_lens=torch.tensor(drawn["prefix"]),
        encoder_lens=None,
        out_cache_loc=torch.cat(case.out),
        spec_info=SimpleNamespace(custom_mask=mask, draft_token_num=drafts),
    )
    backend = PasteCpuBackend(runner(pool, case.req_to_token, case.layer))
    backend.init_forward_metadata(batch)
    return backend.forward(case.q, case.k, case.v, case.layer, batch)


@pytest.mark.parametrize("window", [-1, 4])
@pytest.mark.parametrize("explicit", [False, True])
def test_a_chain_of_drafts_equals_an_extend(explicit: bool, window: int) -> None:
    case = Case(PLAIN | {"new": [6, 6, 6], "window": window})
    chain = torch.ones(6, 6, dtype=torch.bool).tril().flatten().repeat(3) if explicit else None
    assert torch.allclose(
        verify(case, chain).float(), case.run(TorchNativeAttnBackend, ForwardMode.EXTEND).float(), atol=2e-2
    )


def test_a_tree_is_verified_branch_by_branch() -> None:
    case = Case(PLAIN | {"new": [4, 4, 4]})
    tree = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 1]], dtype=torch.bool)
    found = verify(case, tree.flatten().repeat(3)).view(3, 4, -1)
    for branch in ([0, 1, 3], [0, 2]):
        alone = Case(PLAIN | {"new": [4, 4, 4]})
        kept = torch.tensor([request * 4 + node for request in range(3) for node in branch])
        alone.q, alone.k, alone.v = case.q[kept], case.k[kept], case.v[kept]
        alone.drawn = case.drawn | {"new": [len(branch)] * 3}
        alone.out = [slots[: len(branch)] for slots in case.out]
        alone.lengths = [prefix + len(branch) for prefix in case.drawn["prefix"]]
        wanted = alone.run(TorchNativeAttnBackend, ForwardMode.EXTEND).view(3, len(branch), -1)
        assert torch.allclose(found[:, branch].float(), wanted.float(), atol=2e-2)


def test_cross_attention_sees_the_encoder_alone_and_self_attention_what_follows() -> None:
    generator = torch.Generator().manual_seed(1)
    req_to_token = torch.zeros(4, 64, dtype=torch.int32)
    req_to_token[1, :20] = torch.arange(100, 120)
    batch = SimpleNamespace(
        forward_mode=ForwardMode.DECODE,
        batch_size=1,
        req_pool_indices=torch.tensor([1]),
        seq_lens=torch.tensor([8]),
        encoder_lens=torch.tensor([12]),
        out_cache_loc=torch.tensor([119]),
        encoder_out_cache_loc=torch.tensor([0]),
    )
    q = torch.randn(1, 4 * 32, generator=generator).bfloat16()
    for cross in (False, True):
        layer = RadixAttention(4, 32, 0.2, 2, layer_id=0, is_cross_attention=cross)
        results = []
        for backend_class in (PasteCpuBackend, TorchNativeAttnBackend):
            pool = Pool(2, 32, 32, torch.bfloat16)
            pool.keys.copy_(torch.randn(SLOTS, 2, 32, generator=torch.Generator().manual_seed(2)))
            pool.values.copy_(torch.randn(SLOTS, 2, 32, generator=torch.Generator().manual_seed(3)))
            backend = backend_class(runner(pool, req_to_token, layer))
            backend.init_forward_metadata(batch)
            results.append(backend.forward(q, None, None, layer, batch).float())
        assert torch.allclose(*results, atol=2e-2)


def test_idle_gives_nothing() -> None:
    layer = RadixAttention(4, 32, 0.2, 2, layer_id=0)
    backend = PasteCpuBackend(runner(Pool(2, 32, 32, torch.bfloat16), torch.zeros(2, 4, dtype=torch.int32), layer))
    batch = SimpleNamespace(forward_mode=ForwardMode.IDLE)
    backend.init_forward_metadata(batch)
    assert backend.forward(torch.zeros(0, 128), None, None, layer, batch).shape == (0, 128)


def test_what_it_cannot_compute_is_refused_by_name() -> None:
    def layer(**how: Any) -> Any:
        return RadixAttention(4, 32, 0.2, 2, layer_id=0, **how)

    def build(*layers: Any, **changes: Any) -> Any:
        return PasteCpuBackend(runner(Pool(2, 32, 32, torch.bfloat16), None, *layers, **changes))

    with pytest.raises(ConfigError, match="device 'cuda', only 'cpu'"):
        build(device="cuda")
    with pytest.raises(ConfigError, match="MLA"):
        build(use_mla_backend=True)
    with pytest.raises(ConfigError, match=r"a logit cap \(50.0 in layer 0\)"):
        build(layer(logit_cap=50.0))
    with pytest.raises(ConfigError, match=r"bidirectional attention in a decoder \(layer 1\)"):
        build(layer(), layer(attn_type=AttentionType.DECODER_BIDIRECTIONAL))
    with pytest.raises(ConfigError, match="does not compute sinks"):
        build().forward_extend(torch.zeros(1, 1), None, None, layer(), None, sinks=torch.zeros(1))
