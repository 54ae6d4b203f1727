"""The tokens of every running request, in a table on the device, so that a step's drafts need no copy to the host.

Where requests have their output by the time of the next step, the table may as well catch up when it is needed.
"""

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

MAX_BYTES = 256 << 20


class History:
    """One row of token ids per slot of SGLang's request pool. A request longer than a row keeps its end.

    A step first `follow`s a batch: then each row holds all that is committed, the last token being the one that is not
    in the KV cache yet.
    """

    def __init__(self, slots: int, context: int, longest_step: int, device: torch.device | str) -> None:
        self._room = longest_step + 1
        self._capacity = min(context, MAX_BYTES // (4 * slots)) + 2 * self._room
        self._tokens = torch.empty((slots, self._capacity), dtype=torch.int32, device=device)
        self._base = torch.zeros(slots, dtype=torch.int64, device=device)
        self._host_base = [0] * slots
        self._known = [0] * slots
        self._owner: dict[int, weakref.ref[Any]] = {}

    def catch_up(self, batch: Any) -> None:
        """Take in what was committed since the last time, of requests that have all of their output."""
        slots, lengths = batch.req_pool_indices_cpu.tolist(), batch.seq_lens_cpu.tolist()
        for slot, length, req in zip(slots, lengths, batch.reqs, strict=True):
            missing, owner = length + 1 - self._known[slot], self._owner.get(slot)
            if length + 1 - self._host_base[slot] > self._capacity:
                self._shift(slot)
            start = self._known[slot] - self._host_base[slot]
            known = owner is not None and owner() is req
            if not known or missing < 0 or start < 0 or start + missing > self._capacity:
                self._fill(slot, req)
            elif missing:
                said = list(req.output_ids[-missing:])
                self._tokens[slot, start : start + missing] = torch.tensor(said, dtype=torch.int32)
            self._known[slot] = length + 1

    def follow(self, batch: Any, accepted: Tensor, accept_lens: Tensor) -> None:
        """Take in a decode batch: `accepted` [requests, stride] are the tokens of each one's last step, of which the
        first `accept_lens` count; `batch.seq_lens` does not count the last of them."""
        slots, lengths = batch.req_pool_indices_cpu.tolist(), batch.seq_lens_cpu.tolist()
        for slot, length, req in zip(slots, lengths, batch.reqs, strict=True):
            owner = self._owner.get(slot)
            if owner is None or owner() is not req:
                self._fill(slot, req)
            elif length + self._room - self._host_base[slot] > self._capacity:
                self._shift(slot)
        rows = batch.req_pool_indices
        step = torch.arange(accepted.shape[1], device=accepted.device)
        first = batch.seq_lens + 1 - accept_lens - self._base[rows]
        place = torch.where(step < accept_lens[:, None], first[:, None] + step, self._capacity - 1)
        self._tokens[rows[:, None], place] = accepted.int()

    def rows(self, batch: Any) -> tuple[Tensor, Tensor]:
        """The tokens of a batch [requests, longest] and how many of each row count; the rest is anything."""
        slots = batch.req_pool_indices
        bases = [self._host_base[slot] for slot in batch.req_pool_indices_cpu.tolist()]
        longest = max(length - base for length, base in zip(batch.seq_lens_cpu.tolist(), bases, strict=True)) + 1
        return self._tokens[:, :longest].index_select(0, slots), batch.seq_lens + 1 - self._base[slots]

    def clear(self) -> None:
        """Forget whose the rows are."""
        self._owner.clear()

    def _fill(self, slot: int, req: Any) -> None:
        known = _tail(req.origin_input_ids_unpadded, req.output_ids, self._capacity - 2 * self._room)
        self._base[slot] = self._host_base[slot] = len(req.origin_input_ids) + len(req.output_ids) - len(known)
        self._tokens[slot, : len(known)] = torch.tensor(known, dtype=torch.int32).to(self._tokens.device)
        self._owner[slot] = weakref.ref(req)

    def _shift(self, slot: int) -> None:
        half = self._capacity // 2
        self._tokens[slot, :half] = self._tokens[slot, self._capacity - half :].clone()
        self._host_base[slot] += self._capacity - half
        self._base[slot] = self._host_base[slot]


def _tail(prompt: Sequence[int], output: Sequence[int], most: int) -> list[int]:
    """The last `most` tokens of both."""
    after = list(output[-most:]) if output else []
    rest = most - len(after)
    return [*prompt[-rest:], *after] if rest else after
