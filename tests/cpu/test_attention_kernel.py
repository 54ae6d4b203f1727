"""The compiled attention of single queries against torch's, bit for bit."""

import hypothesis.strategies as st
import pytest
import torch
from cpu_kernels import CAPABILITY
from hypothesis import given, settings

from sglang_paste.patches.cpu import attention_kernel, compiled
from sglang_paste.patches.cpu.attention_batch import Request, Rows, rows_of
from sglang_paste.patches.cpu.attention_kernel import SingleQueries
from sglang_paste.patches.cpu.attention_math import attend

pytestmark = [
    pytest.mark.host,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(CAPABILITY not in compiled.ATTENTION, reason="torch does not use AVX2 on this processor"),
]


@pytest.fixture(scope="module")
def single() -> SingleQueries:
    library = compiled.load_library(compiled.ATTENTION[CAPABILITY])
    assert library is not None, "these tests need a C compiler: install gcc"
    return SingleQueries(library)


def numbers(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


@given(
    group=st.integers(1, 9),
    kv_heads=st.integers(1, 3),
    dim=st.sampled_from([16, 32, 64, 96, 128, 256]),
    counts=st.lists(st.one_of(st.integers(1, 40), st.sampled_from([511, 512, 513, 519, 1029])), min_size=1, max_size=3),
    sharp=st.sampled_from([0.1, 1.0, 30.0]),
    seed=st.integers(0, 2**31),
)
@settings(deadline=None, max_examples=60)
def test_every_row_has_the_bits_of_torch_alone(
    single: SingleQueries, group: int, kv_heads: int, dim: int, counts: list[int], sharp: float, seed: int
) -> None:
    keys, values = numbers(seed, 1100, kv_heads, dim), numbers(seed + 1, 1100, kv_heads, dim)
    query = (numbers(seed + 2, len(counts), group * kv_heads, dim) * sharp).bfloat16()
    slots = [torch.randperm(1100, generator=torch.Generator().manual_seed(seed))[:count].int() for count in counts]
    found = single.attend(query, keys, values, Rows.over(slots), 0.2)
    for row, mine in enumerate(slots):
        wanted = attend(query[row : row + 1], keys[mine], values[mine], 0.2, causal=True)
        assert torch.equal(found[row : row + 1], wanted)


def test_another_order_of_the_keys_is_noticed(single: SingleQueries) -> None:
    # Values of many sizes that cancel leave nothing but rounding errors.
    values = numbers(1, 64, 1, 64)
    values[:32] *= torch.arange(32).exp2().view(-1, 1, 1)
    values[32:] = -values[:32]
    query, keys = torch.zeros(1, 1, 64).bfloat16(), numbers(2, 64, 1, 64)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(3)).int()
    wanted = attend(query, keys, values, 1.0, causal=True)
    assert torch.equal(single.attend(query, keys, values, Rows.over([torch.arange(64).int()]), 1.0), wanted)
    assert not torch.equal(single.attend(query, keys, values, Rows.over([order]), 1.0), wanted)


@pytest.mark.parametrize("slots", [slice(5, 25), torch.randperm(40)[:20]])
def test_a_verified_draft_is_as_if_decoded(single: SingleQueries, slots: slice | torch.Tensor) -> None:
    keys, values, query = numbers(1, 40, 2, 32), numbers(2, 40, 2, 32), numbers(3, 5, 4, 32)
    tree = torch.tensor([[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [1, 1, 0, 1, 0], [1, 0, 1, 0, 1]]).bool()
    listed = torch.arange(slots.start, slots.stop) if isinstance(slots, slice) else slots
    for branches in (None, tree):
        found = single.attend(query, keys, values, rows_of([Request(slice(0, 5), slots, branches)]), 0.2)
        for row in range(5):
            seen = torch.arange(5) <= row if branches is None else branches[row]
            mine = listed[torch.cat([torch.ones(15).bool(), seen])]
            wanted = attend(query[row : row + 1], keys[mine], values[mine], 0.2, causal=True)
            assert torch.equal(found[row : row + 1], wanted)


def test_a_single_head_that_torch_divides_is_left_to_torch(single: SingleQueries) -> None:
    assert single.gives_the_bits(1, 1, 64, 0.2)
    torch.set_num_threads(2)
    assert single.gives_the_bits(2, 1, 64, 0.2)
    assert not single.gives_the_bits(1, 1, 64, 0.2)
    torch.set_num_threads(1)


def test_what_it_was_not_written_for_is_not_served(single: SingleQueries, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, query = numbers(1, 40, 2, 32), numbers(3, 5, 4, 32)
    assert single.serves(query, keys, keys, 0.2)
    assert not single.serves(query.half(), keys, keys, 0.2)
    assert not single.serves(query, keys[::2], keys, 0.2)
    assert not single.serves(query, keys, numbers(1, 40, 2, 16), 0.2)
    assert not single.serves(numbers(3, 5, 4, 24), numbers(1, 40, 2, 24), numbers(1, 40, 2, 24), 0.2)
    monkeypatch.setattr(attention_kernel, "attend", lambda query, *rest, **more: query)
    assert not single.serves(query, keys, keys, 0.3)
