"""The compiled decoder against the same model written out in torch, and against itself in other batches."""

import os
import warnings
from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch.nn.functional import linear, silu

from sglang_paste.errors import ConfigError
from sglang_paste.patches.cpu import compiled
from sglang_paste.patches.cpu.attention_batch import Request, as_slots
from sglang_paste.patches.cpu.attention_math import attend, tree_mask

os.environ.setdefault("SGLANG_USE_CPU_ENGINE", "1")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from sglang_paste.patches.cpu import fast_decode

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(compiled.find_compiler() is None, reason="no C compiler on this machine"),
]
HIDDEN, INNER, HEADS, KV_HEADS, DIM, LAYERS, VOCABULARY, SLOTS = 96, 160, 6, 2, 32, 3, 100, 2048
EPSILON, SCALE = 1e-5, 0.2


def weights(seed: int, *shape: int, around: float = 0.0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    return SimpleNamespace(weight=(torch.randn(*shape, generator=generator) * 0.1 + around).bfloat16())


class Pool:
    layer_transfer_counter = None

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(99)
        self.keys, self.values = (
            [torch.randn(SLOTS, KV_HEADS, DIM, generator=generator).bfloat16() for _ in range(LAYERS)] for _ in range(2)
        )

    def get_key_buffer(self, layer: int) -> Any:
        return self.keys[layer]

    def get_value_buffer(self, layer: int) -> Any:
        return self.values[layer]


def model_layer(index: int) -> Any:
    rope = SimpleNamespace(cos_sin_cache=torch.randn(4096, DIM, generator=torch.Generator().manual_seed(5)))
    norm, seed = {"around": 1.0}, 10 * index
    return SimpleNamespace(
        input_layernorm=weights(seed, HIDDEN, **norm),
        post_attention_layernorm=weights(seed + 1, HIDDEN, **norm),
        self_attn=SimpleNamespace(
            qkv_proj=weights(seed + 2, (HEADS + 2 * KV_HEADS) * DIM, HIDDEN),
            o_proj=weights(seed + 3, HIDDEN, HEADS * DIM),
            attn=SimpleNamespace(layer_id=index, scaling=SCALE),
            rotary_emb=rope,
            num_heads=HEADS,
            num_kv_heads=KV_HEADS,
            head_dim=DIM,
        ),
        mlp=SimpleNamespace(
            gate_up_proj=weights(seed + 4, 2 * INNER, HIDDEN), down_proj=weights(seed + 5, HIDDEN, INNER)
        ),
    )


def build() -> tuple[Any, Any]:
    """A fresh decoder and the runner it was made from."""
    final = weights(901, HIDDEN, around=1.0)
    final.variance_epsilon = EPSILON
    stack = SimpleNamespace(
        layers=[model_layer(i) for i in range(LAYERS)], embed_tokens=weights(900, VOCABULARY, HIDDEN), norm=final
    )
    config = SimpleNamespace(hidden_size=HIDDEN, intermediate_size=INNER)
    runner = SimpleNamespace(token_to_kv_pool=Pool(), model=SimpleNamespace(model=stack, config=config))
    library = compiled.load_library()
    assert library is not None
    return fast_decode.FastDecoder(runner, object(), library), runner


def reference(runner: Any, tokens: Any, positions: Any, slots: Any, requests: list[Request]) -> Any:
    """The same pass in torch, with a rounding to bfloat16 after every step."""
    stack, pool = runner.model.model, runner.token_to_kv_pool
    residual, added = stack.embed_tokens.weight[tokens], None
    for index, layer in enumerate(stack.layers):
        normed, residual = norm(added, residual, layer.input_layernorm.weight)
        qkv = linear(normed, layer.self_attn.qkv_proj.weight).unflatten(1, (-1, DIM))
        rope = layer.self_attn.rotary_emb.cos_sin_cache[positions].bfloat16()
        turned = rotate(qkv[:, : HEADS + KV_HEADS], rope)
        pool.keys[index][slots], pool.values[index][slots] = turned[:, HEADS:], qkv[:, HEADS + KV_HEADS :]
        mixed = [over_keys(turned[:, :HEADS], pool.keys[index], pool.values[index], request) for request in requests]
        added = linear(torch.cat(mixed).flatten(1), layer.self_attn.o_proj.weight)
        normed, residual = norm(added, residual, layer.post_attention_layernorm.weight)
        gate, up = linear(normed, layer.mlp.gate_up_proj.weight).chunk(2, dim=1)
        added = linear(silu(gate) * up, layer.mlp.down_proj.weight)
    return norm(added, residual, stack.norm.weight)[0]


def norm(added: Any, residual: Any, weight: Any) -> tuple[Any, Any]:
    total = residual.float() if added is None else residual.float() + added.float()
    factor = torch.rsqrt(total.pow(2).mean(-1, keepdim=True) + EPSILON)
    return (total * factor * weight.float()).bfloat16(), total.bfloat16()


def rotate(heads: Any, rope: Any) -> Any:
    cosine, sine = rope.unsqueeze(1).chunk(2, dim=-1)
    a, b = heads.chunk(2, dim=-1)
    return torch.cat([a * cosine - b * sine, b * cosine + a * sine], dim=-1)


def over_keys(query: Any, keys: Any, values: Any, request: Request) -> Any:
    key, value, rows = keys[request.slots], values[request.slots], query[request.rows]
    mask = None
    if request.tree is not None:
        mask = tree_mask(request.tree, key.shape[0] - request.tree.shape[0], None, query.dtype)
    return attend(rows, key, value, SCALE, causal=True, mask=mask)


class Batch:
    """Requests of `prefix` cached tokens and `count` new ones each, in slots of their own."""

    def __init__(self, shape: list[tuple[int, int]], *, shuffled: bool = False, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        slots = torch.randperm(SLOTS, generator=generator) if shuffled else torch.arange(SLOTS)
        first = used = 0
        self.requests: list[Request] = []
        positions, written = [], []
        for prefix, count in shape:
            mine = slots[used : used + prefix + count].int()
            self.requests.append(Request(slice(first, first + count), as_slots(mine)))
            positions.append(torch.arange(prefix, prefix + count))
            written.append(mine[prefix:].long())
            first, used = first + count, used + prefix + count
        self.positions, self.slots = torch.cat(positions), torch.cat(written)
        self.tokens = torch.randint(0, VOCABULARY, (first,), generator=generator)

    def run(self, decoder: Any) -> Any:
        return decoder.decode(self.tokens, self.positions, self.slots, self.requests)


def close(found: Any, wanted: Any) -> bool:
    """Within a few roundings to bfloat16, and on average far within one."""
    distance = (found.float() - wanted.float()).abs()
    return bool((distance <= 0.12 + 0.03 * wanted.float().abs()).all()) and distance.mean().item() < 0.012


shapes = st.lists(st.tuples(st.sampled_from([0, 1, 15, 200]), st.integers(1, 9)), min_size=1, max_size=4)


@given(shapes, st.booleans())
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_hidden_states_and_cache_equal_torch(shape: list[tuple[int, int]], shuffled: bool) -> None:
    batch = Batch(shape, shuffled=shuffled)
    decoder, runner = build()
    found, pool = batch.run(decoder), runner.token_to_kv_pool
    _, other = build()
    wanted = reference(other, batch.tokens, batch.positions, batch.slots, batch.requests)
    assert close(found, wanted)
    for ours, theirs in zip(
        pool.keys + pool.values, other.token_to_kv_pool.keys + other.token_to_kv_pool.values, strict=True
    ):
        assert close(ours, theirs)


def test_the_comparison_catches_a_wrong_position() -> None:
    batch = Batch([(15, 3)])
    decoder, _ = build()
    _, other = build()
    wanted = reference(other, batch.tokens, batch.positions + 1, batch.slots, batch.requests)
    assert not close(batch.run(decoder), wanted)


def test_more_keys_than_a_block() -> None:
    batch = Batch([(1300, 2)])
    decoder, _ = build()
    _, other = build()
    assert close(batch.run(decoder), reference(other, batch.tokens, batch.positions, batch.slots, batch.requests))


@given(shapes)
@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
def test_a_token_gets_the_same_bits_alone_and_among_others(shape: list[tuple[int, int]]) -> None:
    together = Batch(shape, shuffled=True)
    decoder, _ = build()
    wanted = together.run(decoder)
    alone, _ = build()
    for request in together.requests:
        keys = (
            request.slots
            if isinstance(request.slots, torch.Tensor)
            else torch.arange(request.slots.start, request.slots.stop)
        )
        for row in range(request.rows.start, request.rows.stop):
            seen = keys[: len(keys) - (request.rows.stop - row - 1)].int()
            one = slice(row, row + 1)
            found = alone.decode(
                together.tokens[one],
                together.positions[one],
                together.slots[one],
                [Request(slice(0, 1), as_slots(seen))],
            )
            assert torch.equal(found, wanted[one])


def test_a_draft_tree_is_computed_branch_by_branch() -> None:
    tree = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 1]], dtype=torch.bool)
    batch = Batch([(20, 4)])
    (request,) = batch.requests
    batch.positions = 20 + tree.sum(1) - 1
    decoder, _ = build()
    found = decoder.decode(batch.tokens, batch.positions, batch.slots, [Request(request.rows, request.slots, tree)])
    for branch in ([0, 1, 3], [0, 2]):
        kept = torch.tensor(branch)
        fresh, _ = build()
        slots = torch.cat([torch.arange(20), batch.slots[kept]]).int()
        wanted = fresh.decode(
            batch.tokens[kept],
            batch.positions[kept],
            batch.slots[kept],
            [Request(slice(0, len(branch)), as_slots(slots))],
        )
        assert torch.equal(found[kept], wanted)


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8, 13, 64])
def test_the_product_equals_torch_to_the_last_bit_or_the_next(rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    left = torch.randn(rows, HIDDEN, generator=generator).bfloat16()
    right = torch.randn(1000, HIDDEN, generator=generator).bfloat16()
    decoder, _ = build()
    exact = left.double() @ right.double().T
    assert torch.allclose(decoder.linear(left, right).double(), exact, rtol=2**-8, atol=1e-4)


def test_a_moved_weight_is_noticed() -> None:
    decoder, runner = build()
    batch = SimpleNamespace(
        forward_mode=SimpleNamespace(is_decode=lambda: True, is_target_verify=lambda: False), encoder_lens=None
    )
    decoder._active = lambda: True
    ids = torch.zeros(1, dtype=torch.int64)
    assert decoder._serves(batch, ids, ids)
    layer = runner.model.model.layers[1]
    decoder.weights[4] = layer.self_attn.qkv_proj.weight.clone()
    assert not decoder._serves(batch, ids, ids)


def test_positions_beyond_the_table_are_left_to_torch() -> None:
    decoder, _ = build()
    decoder._active = lambda: True
    batch = SimpleNamespace(
        forward_mode=SimpleNamespace(is_decode=lambda: True, is_target_verify=lambda: False), encoder_lens=None
    )
    assert not decoder._serves(batch, torch.zeros(1), torch.tensor([4096]))


def test_a_model_it_was_not_written_for_is_named() -> None:
    runner = SimpleNamespace(model=torch.nn.Linear(1, 1), token_to_kv_pool=None)
    assert fast_decode.why_not(runner) == "the model is a Linear, not a LlamaForCausalLM"


def test_the_operator_chooses_who_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SGLANG_PASTE_DECODE", raising=False)
    assert not fast_decode.wanted()
    monkeypatch.setenv("SGLANG_PASTE_DECODE", "compiled")
    assert fast_decode.wanted()
    monkeypatch.setenv("SGLANG_PASTE_DECODE", "jit")
    with pytest.raises(ConfigError, match="must be compiled or torch, not 'jit'"):
        fast_decode.wanted()
