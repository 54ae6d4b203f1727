"""Prompt lookup as one would write it in torch: every position of every text at once."""

import torch
from torch import Tensor


def plain_match(text: Tensor, lengths: Tensor, min_match: int, max_match: int, draft: int) -> tuple[Tensor, Tensor]:
    """The drafted tokens [rows, draft], -1 where there are none, and how many tokens matched [rows]."""
    rows, capacity = text.shape
    ends = torch.arange(capacity, device=text.device)
    alive = (ends > 0) & (ends < lengths[:, None])
    shared = torch.zeros_like(text)
    for at in range(max_match):
        wanted = text.gather(1, (lengths[:, None] - 1 - at).clamp(0))
        before = torch.cat([text.new_full((rows, at + 1), -1), text[:, : -at - 1]], 1)
        alive = alive & (before == wanted)
        shared += alive
    best = torch.where(shared >= min_match, shared.long() * capacity + ends, 0).amax(1)
    length, end = best // capacity, best % capacity
    places = end[:, None] + torch.arange(draft, device=text.device)
    real = (places < lengths[:, None]) & (length > 0)[:, None]
    return torch.where(real, text.gather(1, places.clamp(max=capacity - 1)), -1), length
