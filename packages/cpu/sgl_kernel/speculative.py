"""Verification of drafted tokens: trees in `retrive_*` form, what was accepted, and where its cache slots are.

A tree has `n` nodes per request; node 0 is the last verified token. `retrive_next_token` is a node's first child,
`retrive_next_sibling` the next child of its parent, -1 for none, and `retrive_index` its place in the flat batch.
The spelling is that of the real package, whose arguments are passed by name.
"""

from functools import lru_cache

import torch
from torch import Tensor


def reconstruct_indices_from_tree_mask(
    tree_mask: Tensor,
    verified_seq_len: Tensor,
    positions: Tensor,
    retrive_index: Tensor,
    retrive_next_token: Tensor,
    retrive_next_sibling: Tensor,
    batch_size: int,
    draft_token_num: int,
) -> None:
    """Fill positions and links from `tree_mask` [batch * n * n], in which row i marks the ancestors of node i."""
    batch, n = batch_size, draft_token_num
    row, column, below = _grid(n)
    ancestors = tree_mask.view(-1)[: batch * n * n].view(batch, n, n).bool() & below
    parent = torch.where(ancestors, column, -1).amax(2)
    child = torch.where(ancestors, row, n).amin(1)
    siblings = (parent[:, :, None] == parent[:, None, :]) & below & (parent >= 0)[:, None, :]
    sibling = torch.where(siblings, row, n).amin(1)
    depth = ancestors.sum(2) + verified_seq_len[:batch, None]
    for out, value in (
        (positions, depth),
        (retrive_index, torch.arange(batch * n)),
        (retrive_next_token, torch.where(child < n, child, -1)),
        (retrive_next_sibling, torch.where(sibling < n, sibling, -1)),
    ):
        out.view(-1)[: batch * n] = value.reshape(-1)


@lru_cache(maxsize=8)
def _grid(n: int) -> tuple[Tensor, Tensor, Tensor]:
    row = torch.arange(n)[:, None]
    return row, row.T, row > row.T


def verify_tree_greedy_cpu(
    predicts: Tensor,
    accept_index: Tensor,
    accept_token_num: Tensor,
    candidates: Tensor,
    retrive_index: Tensor,
    retrive_next_token: Tensor,
    retrive_next_sibling: Tensor,
    target_predict: Tensor,
) -> None:
    """Walk each request's tree along the target's own choices; write what was accepted, in place.

    `accept_index` [batch, steps] gets the flat places of the accepted nodes, `accept_token_num` their number without
    the root, `predicts` [batch * n] the target's token after each of them. Other entries are left as they are.
    """
    target, width = target_predict.reshape(-1).tolist(), accept_index.shape[1]
    trees = zip(
        candidates.tolist(),
        retrive_index.tolist(),
        retrive_next_token.tolist(),
        retrive_next_sibling.tolist(),
        strict=True,
    )
    predicted: list[int] = []
    for request, (tokens, places, children, siblings) in enumerate(trees):
        accepted = _accepted(tokens, places, children, siblings, target, width)
        accept_index[request, : len(accepted)] = torch.tensor(accepted)
        accept_token_num[request] = len(accepted) - 1
        predicted += accepted
    predicts[predicted] = torch.tensor([target[place] for place in predicted], dtype=predicts.dtype)


def _accepted(
    tokens: list[int], places: list[int], children: list[int], siblings: list[int], target: list[int], width: int
) -> list[int]:
    accepted, node = [places[0]], 0
    while len(accepted) < width:
        wanted, node = target[accepted[-1]], children[node]
        for _ in tokens:
            if node == -1 or tokens[node] == wanted:
                break
            node = siblings[node]
        else:
            node = -1
        if node == -1:
            break
        accepted.append(places[node])
    return accepted


def build_tree_kernel_efficient_cpu(
    parent_list: Tensor,
    selected_index: Tensor,
    verified_seq_len: Tensor,
    tree_mask: Tensor,
    positions: Tensor,
    retrive_index: Tensor,
    retrive_next_token: Tensor,
    retrive_next_sibling: Tensor,
    topk: int,
    depth: int,
    draft_token_num: int,
    tree_mask_mode: int,
) -> None:
    """Fill mask, positions and links of the trees that EAGLE drafted.

    Node i + 1 is entry `selected_index[i]` of the drafts; its parent is entry `parent_list[selected_index[i] // topk]`,
    or the root where that quotient is 0. The rows of mask mode 0 begin with the whole sequence, those of mode 1 do not.
    """
    if int(tree_mask_mode) not in (0, 1):
        raise NotImplementedError(f"tree mask mode {int(tree_mask_mode)} packs bits, which no CPU backend reads")
    n, batch = draft_token_num, len(verified_seq_len)
    lengths = verified_seq_len.tolist()
    offset = 0
    for request, (parents, selected) in enumerate(zip(parent_list.tolist(), selected_index.tolist(), strict=True)):
        parent = _tree_parents(parents, selected[: n - 1], topk)
        mask = torch.eye(n, dtype=torch.bool)
        for node in range(1, n):
            if parent[node] >= 0:
                mask[node] |= mask[parent[node]]
        mask[:, 0] = True
        skip = lengths[request] if int(tree_mask_mode) == 0 else 0
        tree_mask.view(-1)[offset : offset + n * (n + skip)].view(n, n + skip)[:, skip:] = mask
        offset += n * (n + skip)
        child, sibling = [-1] * n, [-1] * n
        for node in range(n - 1, 0, -1):
            if parent[node] >= 0:
                child[parent[node]], sibling[node] = node, child[parent[node]]
        retrive_next_token.view(batch, n)[request] = torch.tensor(child)
        retrive_next_sibling.view(batch, n)[request] = torch.tensor(sibling)
        positions.view(-1)[request * n : (request + 1) * n] = mask.sum(1) - 1 + lengths[request]
    retrive_index.view(-1)[: batch * n] = torch.arange(batch * n)


def _tree_parents(parents: list[int], selected: list[int], topk: int) -> list[int]:
    """The parent of each node, -1 for the root and for a node whose parent was not selected."""
    nodes = {entry: node for node, entry in reversed(list(enumerate(selected, start=1)))}
    return [-1, *(0 if entry < topk else nodes.get(parents[entry // topk], -1) for entry in selected)]


def fill_bonus_tokens_cpu(accept_tokens: Tensor, accept_lens: Tensor, bonus_tokens: Tensor, accept_stride: int) -> None:
    """Take each request's last accepted token from `accept_tokens` [batch, accept_stride]; lengths count the bonus."""
    batch = len(accept_lens)
    tokens = accept_tokens.reshape(-1)[: batch * accept_stride].view(batch, accept_stride)
    bonus_tokens[:batch] = tokens.gather(1, accept_lens[:, None].long() - 1)[:, 0]


def fill_accept_out_cache_loc_cpu(accept_index: Tensor, out_cache_loc: Tensor, accept_out_cache_loc: Tensor) -> None:
    """Pack the cache slots of the accepted places (not -1) to the front of `accept_out_cache_loc`."""
    places = accept_index.reshape(-1)
    places = places[places > -1].long()
    accept_out_cache_loc[: len(places)] = out_cache_loc[places]


def rotate_input_ids_cpu(
    input_ids: Tensor,
    extend_start_loc: Tensor,
    extend_seq_lens: Tensor,
    topk_index: Tensor,
    select_index: Tensor | None = None,
) -> None:
    """Shift each request's ids left by one and put its new token last, or at `select_index` of the flat batch."""
    starts, lengths, tokens = extend_start_loc.tolist(), extend_seq_lens.tolist(), topk_index.reshape(-1).tolist()
    ends = [start + length for start, length in zip(starts, lengths, strict=True)]
    if any(not 0 <= start <= end <= len(input_ids) for start, end in zip(starts, ends, strict=True)):
        raise IndexError(f"requests reach to {max(ends)} and there are {len(input_ids)} input ids")
    places = [end - 1 for end in ends] if select_index is None else select_index.tolist()
    for start, end, place, token in zip(starts, ends, places, tokens, strict=False):
        if end > start:
            input_ids[start : end - 1] = input_ids[start + 1 : end].clone()
            input_ids[place] = token
