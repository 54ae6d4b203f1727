"""`draft_pack` on a CPU: tries in plain Python, where one of a dozen nodes costs less than three calls of torch."""

import torch
from torch import Tensor

from sglang_paste.kernels.draft_pack.types import Pack, Shape


def draft_pack(
    roots: Tensor, drafts: Tensor, counts: Tensor, seq_lens: Tensor, limits: Tensor, width: int, shape: Shape, out: Pack
) -> None:
    batch, lengths = len(roots), seq_lens.tolist()
    packed = _Rows(width)
    rows = zip(roots.tolist(), drafts.tolist(), counts.tolist(), lengths, limits.tolist(), strict=True)
    for root, offered, real, length, limit in rows:
        packed.add(root, list(zip(offered, real, strict=True)), length, min(limit, width - 1), shape == "chain")
    for tensor, values in (
        (out.tokens, packed.tokens),
        (out.positions, packed.positions),
        (out.retrieve_index, range(batch * width)),
        (out.retrieve_next_token, packed.children),
        (out.retrieve_next_sibling, packed.siblings),
        (out.source, packed.sources),
    ):
        tensor.view(-1).copy_(torch.tensor(values, dtype=tensor.dtype))
    if batch:
        out.mask.copy_(torch.frombuffer(packed.mask, dtype=torch.bool))
    if out.full_mask is not None:
        _widen(out.mask.view(batch, width, width), lengths, out.full_mask)


class _Rows:
    """What is packed so far, flat."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.tokens: list[int] = []
        self.positions: list[int] = []
        self.children: list[int] = []
        self.siblings: list[int] = []
        self.sources: list[int] = []
        self.mask = bytearray()

    def add(self, root: int, offered: list[tuple[list[int], int]], length: int, limit: int, chain: bool) -> None:
        width = self.width
        tokens, parents, sources = _trie(root, offered, limit, chain)
        depths, children, siblings = [0] * width, [-1] * width, [-1] * width
        paths = [bytearray(width) for _ in range(width)]
        for place, path in enumerate(paths):
            if 0 < place < len(parents):
                path[:] = paths[parents[place]]
                depths[place] = depths[parents[place]] + 1
            path[place] = 1
        for place in range(len(parents) - 1, 0, -1):
            parent = parents[place]
            children[parent], siblings[place] = place, children[parent]
        unused = width - len(tokens)
        self.tokens += tokens + [0] * unused
        self.sources += sources + [-1] * unused
        self.positions += [length + depth for depth in depths]
        self.children += children
        self.siblings += siblings
        self.mask += b"".join(paths)


def _trie(
    root: int, offered: list[tuple[list[int], int]], limit: int, chain: bool
) -> tuple[list[int], list[int], list[int]]:
    """Each node's token, parent and source."""
    tokens, parents, sources = [root], [-1], [-1]
    places: dict[tuple[int, int], int] = {}
    for source, (draft, count) in enumerate(offered):
        at = 0
        for token in draft[: max(0, count)]:
            if token < 0 or ((at, token) not in places and len(tokens) > limit):
                break
            if (at, token) not in places:
                places[at, token] = len(tokens)
                tokens.append(token)
                parents.append(at)
                sources.append(source)
            at = places[at, token]
        if chain and at:
            break
    return tokens, parents, sources


def _widen(mask: Tensor, lengths: list[int], full: Tensor) -> None:
    width, at = mask.shape[1], 0
    full.fill_(True)
    for square, length in zip(mask, lengths, strict=True):
        end = at + width * (length + width)
        full[at:end].view(width, -1)[:, length:] = square
        at = end
