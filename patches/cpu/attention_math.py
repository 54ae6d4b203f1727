"""Attention of a few new queries over many keys, on plain tensors.

`attend` calls torch's CPU flash kernel so that each row goes through the same arithmetic as when the whole sequence is
computed: on an extend the result equals `torch_native` bit for bit, at the cost of the new rows alone.
"""

import torch
from torch.nn.functional import pad, scaled_dot_product_attention

QUERY_BLOCK = 1024


def attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    *,
    causal: bool,
    window: int | None = None,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Attention of one request; the last query stands at the position of the last key.

    `query` [rows, heads, dim], `key` [keys, kv_heads, dim], `value` [keys, kv_heads, value dim], all of one dtype and
    with dense last dimensions; returns [rows, heads, value dim]. A causal row at position p sees the keys up to p, and
    with a `window` only those from p - window on. `mask` [rows, keys] is added to the scores and replaces both.
    A row that can see no key at all gets zeros.
    """
    rows, keys = query.shape[0], key.shape[0]
    if not rows or not keys:
        return query.new_zeros(rows, query.shape[1], value.shape[2])
    if mask is not None or not causal:
        return _flash(query, key, value, scale, mask=mask)
    if window is None and rows == keys:
        return _flash(query, key, value, scale, causal=True)
    if window is None and rows == 1:
        return _flash(query, key, value, scale)
    blocks = [
        _banded(query, key, value, scale, first, min(first + QUERY_BLOCK, rows), window)
        for first in range(0, rows, QUERY_BLOCK)
    ]
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks)


def tree_mask(tree: torch.Tensor, prefix: int, window: int | None, dtype: torch.dtype) -> torch.Tensor:
    """The additive mask of a draft tree behind `prefix` cached tokens.

    `tree` is boolean [drafts, drafts]: row i marks its ancestors and itself. A draft's position is its depth, so with a
    `window` a row sees what lies at most that many positions above it. Returns [drafts, prefix + drafts].
    """
    drafts = tree.shape[0]
    seen = torch.cat([tree.new_ones(drafts, prefix), tree], dim=1)
    if window is not None:
        position = prefix + tree.sum(dim=1) - 1
        keys = torch.cat([torch.arange(prefix), position])
        seen &= keys >= (position - window).unsqueeze(1)
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, float("-inf"))


def _banded(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    first: int,
    last: int,
    window: int | None,
) -> torch.Tensor:
    offset = key.shape[0] - query.shape[0]
    end = offset + last
    start = 0 if window is None else max(0, offset + first - window)
    # With the rows in reverse order one vector holds the whole mask: row r of it is the vector moved on by r.
    rows, keys = last - first, end - start
    band = torch.full((keys + rows - 1,), float("-inf"), dtype=query.dtype)
    band[0 if window is None else max(0, keys - 1 - window) : keys] = 0.0
    mask = band.as_strided((rows, keys), (1, 1))
    return _flash(query[first:last].flip(0), key[start:end], value[start:end], scale, mask=mask).flip(0)


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    *,
    causal: bool = False,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    rows, heads, _ = query.shape
    kv_heads, width = value.shape[1], value.shape[2]
    if query.shape[2] != width:
        query, key, value = _same_width(query, key, value)
    group = heads // kv_heads
    # [kv_heads, group, rows, dim]: the heads of a group share their key through a stride of zero.
    out = scaled_dot_product_attention(
        query.unflatten(1, (kv_heads, group)).permute(1, 2, 0, 3),
        key.transpose(0, 1).unsqueeze(1).expand(-1, group, -1, -1),
        value.transpose(0, 1).unsqueeze(1).expand(-1, group, -1, -1),
        attn_mask=mask,
        is_causal=causal,
        scale=scale,
    )
    return out.permute(2, 0, 1, 3)[..., :width].reshape(rows, heads, width)


def _same_width(*tensors: torch.Tensor) -> list[torch.Tensor]:
    """The flash kernel wants one head size; zeros change neither scores nor the kept part of the output."""
    width = max(tensor.shape[2] for tensor in tensors)
    return [pad(tensor, (0, width - tensor.shape[2])) for tensor in tensors]
