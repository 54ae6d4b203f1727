"""A forward batch as requests: which rows of the query belong to whom, and in which slots their keys lie."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

Slots: TypeAlias = "slice | torch.Tensor"


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a batch. `slots` are the pool's rows of its keys, in order; `tree` is boolean [drafts, drafts]."""

    rows: slice
    slots: Slots
    tree: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Rows:
    """For each query row the slots of its keys, int32: where their list begins in memory, and how many they are."""

    addresses: torch.Tensor
    counts: torch.Tensor
    lists: tuple[torch.Tensor, ...]

    @classmethod
    def over(cls, lists: list[torch.Tensor], counts: list[int] | None = None) -> "Rows":
        """Rows with a list each, of which they use the first `counts`, or all."""
        addresses = torch.tensor([slots.data_ptr() for slots in lists])
        return cls(addresses, torch.tensor(counts or [slots.numel() for slots in lists]), tuple(lists))


def rows_of(requests: list[Request]) -> Rows:
    """The rows of a decode or verify batch, each with the keys it would have if its tokens were decoded one by one."""
    lists: list[torch.Tensor] = []
    counts: list[int] = []
    for request in requests:
        slots, count = _listed(request.slots), request.rows.stop - request.rows.start
        prefix, drafts = slots[:-count], slots[-count:]
        for row, seen in enumerate(_seen(request.tree, count)):
            straight = seen == list(range(row + 1))
            lists.append(slots if straight else torch.cat([prefix, drafts[seen]]))
            counts.append(prefix.numel() + len(seen))
    return Rows.over(lists, counts)


def requests_of(batch: Any, req_to_token: torch.Tensor) -> list[Request]:
    """The requests of an extend, decode or verify batch, with the keys of self-attention."""
    encoder = [0] * batch.batch_size if batch.encoder_lens is None else batch.encoder_lens.tolist()
    rows = batch.req_pool_indices.tolist()
    lengths = batch.seq_lens.tolist()
    counts, trees = _queries(batch, lengths)
    if batch.forward_mode.is_target_verify():
        lengths = [length + count for length, count in zip(lengths, counts, strict=True)]
    requests, first = [], 0
    for row, skip, length, count, tree in zip(rows, encoder, lengths, counts, trees, strict=True):
        slots = as_slots(req_to_token[row, skip : skip + length])
        requests.append(Request(slice(first, first + count), slots, tree))
        first += count
    return requests


def encoder_requests(requests: list[Request], batch: Any, req_to_token: torch.Tensor) -> list[Request]:
    """The same rows with the keys of cross-attention: the encoder's tokens, which come first in a request's row."""
    lengths = batch.encoder_lens.tolist()
    return [
        Request(request.rows, as_slots(req_to_token[row, :length]))
        for request, row, length in zip(requests, batch.req_pool_indices.tolist(), lengths, strict=True)
    ]


def windowed(requests: list[Request], window: int, translate: Callable[[torch.Tensor], torch.Tensor]) -> list[Request]:
    """The same requests without the keys no row can see; `translate` maps the rest to a sliding-window pool."""
    return [Request(request.rows, as_slots(translate(_last(request, window))), request.tree) for request in requests]


def as_slots(slots: torch.Tensor) -> Slots:
    """A slice where the slots run on without a gap, so that the keys are read in place and not gathered."""
    count = slots.numel()
    if count == 0:
        return slice(0, 0)
    first, last = int(slots[0]), int(slots[-1])
    if last - first != count - 1 or (count > 2 and not bool((slots[1:] - slots[:-1] == 1).all())):
        return slots
    return slice(first, last + 1)


def read(pool: torch.Tensor, slots: Slots, dtype: torch.dtype) -> torch.Tensor:
    """The rows of a key or value buffer in `dtype`; a view of the pool where that is possible."""
    if isinstance(slots, slice):
        return pool[slots].to(dtype)
    if pool.element_size() == 1:
        return pool.view(torch.uint8)[slots].view(pool.dtype).to(dtype)
    return pool.index_select(0, slots).to(dtype)


def _queries(batch: Any, lengths: list[int]) -> tuple[list[int], list[torch.Tensor | None]]:
    if batch.forward_mode.is_target_verify():
        return _trees(batch.spec_info, lengths)
    nobody = [None] * batch.batch_size
    if batch.forward_mode.is_decode():
        return [1] * batch.batch_size, list(nobody)
    return batch.extend_seq_lens.tolist(), list(nobody)


def _trees(spec: Any, lengths: list[int]) -> tuple[list[int], list[torch.Tensor | None]]:
    """Draft trees from a mask over drafts alone or over prefix and drafts; without a mask drafts are a chain."""
    drafts, size = spec.draft_token_num, len(lengths)
    counts = [drafts] * size
    mask = spec.custom_mask
    if mask is None:
        return counts, [None] * size
    flat = mask.view(-1).bool()
    whole = [length + drafts for length in lengths]
    if flat.numel() >= drafts * sum(whole):
        parts = flat[: drafts * sum(whole)].split([drafts * keys for keys in whole])
        return counts, [part.view(drafts, -1)[:, -drafts:] for part in parts]
    if flat.numel() < size * drafts * drafts:
        raise ValueError(
            f"The draft mask does not fit the batch: {flat.numel()} entries for {size} requests of {drafts} drafts; "
            "it must hold drafts × drafts per request, or drafts × (prefix + drafts)."
        )
    return counts, list(flat[: size * drafts * drafts].view(size, drafts, drafts).unbind())


def _seen(tree: torch.Tensor | None, drafts: int) -> list[list[int]]:
    """Which drafts each of them sees, itself included."""
    if tree is None:
        return [list(range(row + 1)) for row in range(drafts)]
    return [[index for index, seen in enumerate(row) if seen] for row in tree.tolist()]


def _listed(slots: Slots) -> torch.Tensor:
    if isinstance(slots, slice):
        return torch.arange(slots.start, slots.stop, dtype=torch.int32)
    return slots.to(torch.int32).contiguous()


def _last(request: Request, window: int) -> torch.Tensor:
    slots, rows = request.slots, request.rows.stop - request.rows.start
    kept = torch.arange(slots.start, slots.stop) if isinstance(slots, slice) else slots
    return kept[max(0, kept.numel() - rows - window) :]
