"""The scripts of the requests that a model runner holds, on its device."""

from collections.abc import Sequence
from typing import Any

import torch

# Finite in half precision, and of probability 1 after any softmax.
ABOVE_ALL = 1e4
_NONE = -1
_WIDTH = 256


class Scripts:
    """A script for each slot of the pool of requests. Steering reads nothing back from the device."""

    def __init__(self, slots: int, device: Any) -> None:
        self._starts = torch.zeros(slots, dtype=torch.int64, device=device)
        self._tokens = torch.full((slots, _WIDTH), _NONE, dtype=torch.int32, device=device)

    def put(self, slot: int, start: int, script: Sequence[int]) -> None:
        """The request in `slot` emits `script` from position `start` of its sequence on; an empty one is free."""
        self._widen(len(script))
        self._starts[slot] = start
        self._tokens[slot] = _NONE
        self._tokens[slot, : len(script)] = torch.tensor(script, dtype=torch.int32)

    def steer(self, logits: torch.Tensor, slots: torch.Tensor, positions: torch.Tensor) -> None:
        """Raise in each row of `logits` [rows, vocabulary] the token that its script has after `positions` [rows], the
        place of the row's own token in the sequence of the request in `slots` [rows].

        That holds for a prompt's last token, a decoded one, and every one of a chain or tree of drafts: one whose
        ancestors are the script's has the script's next token as its best, and the others are never accepted.
        """
        width = self._tokens.shape[1]
        places = positions.long() + 1 - self._starts[slots]
        wanted = self._tokens[slots, places.clamp(0, width - 1)].long()
        free = (wanted == _NONE) | (places < 0) | (places >= width)
        columns = wanted.clamp(min=0)[:, None]
        raised = logits.gather(1, columns).masked_fill(~free[:, None], ABOVE_ALL)
        logits.scatter_(1, columns, raised)

    def _widen(self, length: int) -> None:
        slots, width = self._tokens.shape
        if length > width:
            more = self._tokens.new_full((slots, -(-length // _WIDTH) * _WIDTH - width), _NONE)
            self._tokens = torch.cat([self._tokens, more], 1)
