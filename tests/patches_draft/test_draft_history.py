"""The table of histories holds what was committed, whatever joins, leaves, or grows too long."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sglang_paste.patches import draft_history
from sglang_paste.patches.draft_history import History

SLOTS, STRIDE = 3, 4


class Req:
    """A request as SGLang has it: output that is processed late where the schedule overlaps."""

    def __init__(self, prompt: list[int]) -> None:
        self.origin_input_ids = self.origin_input_ids_unpadded = prompt
        self.output_ids: list[int] = []
        self.said: list[int] = []

    @property
    def text(self) -> list[int]:
        return self.origin_input_ids + self.said


def batch_of(reqs: dict[int, Req]) -> Any:
    lengths = torch.tensor([len(req.text) - 1 for req in reqs.values()])
    slots = torch.tensor(list(reqs))
    return SimpleNamespace(
        reqs=list(reqs.values()),
        req_pool_indices=slots,
        req_pool_indices_cpu=slots,
        seq_lens=lengths,
        seq_lens_cpu=lengths,
    )


def step(history: History, reqs: dict[int, Req], last: list[list[int]], *, overlap: bool) -> list[list[int]]:
    """Take in what each request said last; returns the rows."""
    for req, said in zip(reqs.values(), last, strict=True):
        before = list(req.said)
        req.said += said
        req.output_ids = before if overlap else list(req.said)
    batch = batch_of(reqs)
    padded = torch.tensor([said + [0] * (STRIDE - len(said)) for said in last])
    history.follow(batch, padded, torch.tensor([len(said) for said in last]))
    tokens, lengths = history.rows(batch)
    return [row[:length].tolist() for row, length in zip(tokens, lengths.tolist(), strict=True)]


def say(reqs: dict[int, Req], last: list[list[int]]) -> None:
    """Each request has said something; the table is not told."""
    for req, said in zip(reqs.values(), last, strict=True):
        req.said += said
        req.output_ids = list(req.said)


says = st.lists(st.integers(1, 9), min_size=1, max_size=STRIDE)
prompts = st.lists(st.integers(1, 9), min_size=1, max_size=30)


@given(st.booleans(), st.lists(prompts, min_size=1, max_size=SLOTS), st.data())
def test_rows_are_the_texts(overlap: bool, texts: list[list[int]], data: st.DataObject) -> None:
    history = History(SLOTS, 200, STRIDE, "cpu")
    reqs = {slot: Req(text) for slot, text in enumerate(texts)}
    for number in range(data.draw(st.integers(1, 8))):
        if number and data.draw(st.booleans()):
            slot = data.draw(st.sampled_from(sorted(reqs)))
            reqs[slot] = Req(data.draw(prompts))
        last = [data.draw(says) if req.said else data.draw(says)[:1] for req in reqs.values()]
        assert step(history, reqs, last, overlap=overlap) == [req.text for req in reqs.values()]


@pytest.mark.parametrize("most", [200, 16 + STRIDE])
@given(texts=st.lists(prompts, min_size=1, max_size=SLOTS), data=st.data())
def test_rows_are_the_texts_where_the_table_catches_up_now_and_then(
    most: int, texts: list[list[int]], data: st.DataObject
) -> None:
    history = History(SLOTS, most, STRIDE, "cpu")
    reqs = {slot: Req(text) for slot, text in enumerate(texts)}
    for number in range(data.draw(st.integers(1, 12))):
        if number and data.draw(st.booleans()):
            slot = data.draw(st.sampled_from(sorted(reqs)))
            reqs[slot] = Req(data.draw(prompts))
        say(reqs, [data.draw(says) for _ in reqs])
        if data.draw(st.booleans()):
            batch = batch_of(reqs)
            history.catch_up(batch)
            tokens, lengths = history.rows(batch)
            for row, length, req in zip(tokens, lengths.tolist(), reqs.values(), strict=True):
                found = row[:length].tolist()
                assert found == req.text[-length:]
                assert length >= min(len(req.text), most // 2)


def test_a_text_that_is_too_long_keeps_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draft_history, "MAX_BYTES", 4 * SLOTS * 40)
    history = History(SLOTS, 100_000, STRIDE, "cpu")
    reqs = {1: Req(list(range(1, 200)))}
    for number in range(100):
        (row,) = step(history, reqs, [[1000 + number] * (STRIDE if number else 1)], overlap=False)
        assert row == reqs[1].text[-len(row) :]
        assert len(row) >= 15


def test_a_table_that_was_not_told_for_long_is_filled_again() -> None:
    history = History(SLOTS, 16, STRIDE, "cpu")
    reqs = {0: Req([1, 2, 3])}
    for _ in range(2):
        say(reqs, [[4]])
        history.catch_up(batch_of(reqs))
        say(reqs, [list(range(100))])
    history.catch_up(batch_of(reqs))
    tokens, lengths = history.rows(batch_of(reqs))
    assert tokens[0, : lengths[0]].tolist() == reqs[0].text[-int(lengths[0]) :]
    assert lengths[0] >= 8


def test_a_slot_is_filled_again_after_it_was_cleared() -> None:
    history = History(SLOTS, 200, STRIDE, "cpu")
    reqs = {0: Req([1, 2, 3])}
    step(history, reqs, [[4]], overlap=False)
    history.clear()
    assert step(history, reqs, [[5, 6]], overlap=False) == [[1, 2, 3, 4, 5, 6]]
