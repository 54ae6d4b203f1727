"""Slots, draft masks and windows of a batch."""

from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given

from sglang_paste.patches.cpu.attention_batch import Request, _trees, as_slots, read, windowed


@given(st.lists(st.integers(0, 6), max_size=8))
def test_slots_keep_their_order_whether_view_or_gather(slots: list[int]) -> None:
    pool = torch.arange(7 * 2 * 3).view(7, 2, 3).float()
    assert torch.equal(
        read(pool, as_slots(torch.tensor(slots, dtype=torch.int32)), torch.float32), pool[torch.tensor(slots).long()]
    )


def test_a_run_is_read_in_place() -> None:
    pool = torch.zeros(9, 1, 4, dtype=torch.bfloat16)
    assert as_slots(torch.tensor([3, 4, 5])) == slice(3, 6)
    assert read(pool, slice(3, 6), torch.bfloat16).data_ptr() == pool[3].data_ptr()


def test_one_byte_pools_are_gathered_and_widened() -> None:
    pool = torch.tensor([[[1.0]], [[2.0]], [[4.0]]]).to(torch.float8_e4m3fn)
    assert read(pool, torch.tensor([2, 0]), torch.bfloat16).flatten().tolist() == [4.0, 1.0]


def spec(mask: Any, drafts: int) -> SimpleNamespace:
    return SimpleNamespace(custom_mask=mask, draft_token_num=drafts)


def test_masks_over_drafts_and_over_everything_give_the_same_trees() -> None:
    lengths, drafts = [3, 0, 5], 4
    trees = [torch.rand(drafts, drafts) > 0.5 for _ in lengths]
    narrow = torch.cat([tree.flatten() for tree in trees])
    whole = torch.cat(
        [
            torch.cat([torch.ones(drafts, n, dtype=torch.bool), t], 1).flatten()
            for n, t in zip(lengths, trees, strict=True)
        ]
    )
    for mask in (narrow, whole):
        counts, found = _trees(spec(mask, drafts), lengths)
        assert counts == [drafts] * 3
        for tree, wanted in zip(found, trees, strict=True):
            assert tree is not None
            assert torch.equal(tree, wanted)


def test_without_a_mask_drafts_are_a_chain() -> None:
    assert _trees(spec(None, 3), [7, 9]) == ([3, 3], [None, None])


def test_a_mask_that_fits_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="5 entries for 1 requests of 3 drafts"):
        _trees(spec(torch.ones(5, dtype=torch.bool), 3), [7])


def test_a_window_keeps_the_last_keys_and_translates_them() -> None:
    requests = [Request(slice(0, 2), slice(10, 20)), Request(slice(2, 3), torch.tensor([5, 1, 9]))]
    kept = windowed(requests, 3, lambda slots: slots + 100)
    assert kept[0].slots == slice(115, 120)
    assert isinstance(kept[1].slots, torch.Tensor)
    assert kept[1].slots.tolist() == [105, 101, 109]
