"""What a packed draft is."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Shape = Literal["chain", "tree"]


class Pack(NamedTuple):
    """Drafts as SGLang verifies them: per request `width` nodes, node 0 the root, and every node after its parent."""

    tokens: Tensor  # [batch * width] int64, 0 where unused
    positions: Tensor  # [batch * width] int64
    mask: Tensor  # [batch * width * width] bool: in row i, the ancestors of node i and itself
    retrieve_index: Tensor  # [batch, width] int64: the place in the flat batch
    retrieve_next_token: Tensor  # [batch, width] int64: the first child, -1 for none
    retrieve_next_sibling: Tensor  # [batch, width] int64: the next child of the same parent, -1 for none
    source: Tensor  # [batch, width] int8: the first source that drafted the node, -1 for the root and where unused
    full_mask: (
        Tensor | None
    )  # [width * (sum of seq_lens + batch * width)] bool: `mask` after a row of ones for the text


def empty_pack(batch: int, width: int, seq_lens_sum: int | None, device: torch.device) -> Pack:
    longs = torch.empty((5, batch, width), dtype=torch.int64, device=device)
    full = None
    if seq_lens_sum is not None:
        full = torch.empty(width * (seq_lens_sum + batch * width), dtype=torch.bool, device=device)
    mask = torch.empty(batch * width * width, dtype=torch.bool, device=device)
    source = torch.empty((batch, width), dtype=torch.int8, device=device)
    return Pack(longs[0].view(-1), longs[1].view(-1), mask, longs[2], longs[3], longs[4], source, full)
