"""What SGLang's NGRAM worker does on the host at every step, by its own parts: trie, copies, links, mask."""

import os
import sys
from pathlib import Path

import torch
from torch import Tensor

CAPACITY = 1_000_000
DEPTH = 18


class StockPath:
    """A trie that knows as much of the texts as its capacity holds, and the tensors a worker has allocated."""

    def __init__(self, text: Tensor, lengths: list[int], width: int) -> None:
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # ninja is there
        from sglang.srt.speculative.cpp_ngram.ngram_corpus import NgramCorpus

        self.device, self.width, batch = text.device, width, len(lengths)
        rows = [text[row, :length].tolist() for row, length in enumerate(lengths)]
        self.corpus = NgramCorpus(max_trie_depth=DEPTH, draft_token_num=width, capacity=CAPACITY)
        for tokens in rows:
            self.corpus.batch_put([tokens[-(CAPACITY // DEPTH // batch) :]])
        self.corpus.synchronize()
        self.names = [str(row) for row in range(batch)]
        self.tails, self.lengths = [tokens[-DEPTH:] for tokens in rows], lengths
        self.seq_lens = torch.tensor(lengths, device=text.device)
        self.tree_mask = torch.empty(batch * width * width, dtype=torch.bool, device=text.device)
        longs = torch.empty((5, batch, width), dtype=torch.int64, device=text.device)
        self.tokens, self.positions, *self.links = longs

    def step(self) -> Tensor:
        """Everything a step needs; the mask, of the full form where the device is not a CPU."""
        from sglang.kernels.ops.speculative.reconstruct_tree import reconstruct_indices_from_tree_mask_func

        batch, width = len(self.tails), self.width
        self.tokens.cpu()
        drafts, mask = self.corpus.batch_get(self.names, self.tails, self.lengths)
        self.tree_mask.copy_(torch.from_numpy(mask), non_blocking=True)
        self.tokens.view(-1).copy_(torch.from_numpy(drafts), non_blocking=True)
        outputs = (self.positions.view(-1), *self.links)
        reconstruct_indices_from_tree_mask_func(self.tree_mask, self.seq_lens, *outputs, batch, width)
        if self.device.type == "cpu":
            return self.tree_mask
        squares = torch.from_numpy(mask).view(batch, width, width)
        rows = [
            torch.cat((torch.ones((width, length), device=self.device), square.to(self.device)), 1).bool().flatten()
            for square, length in zip(squares, self.lengths, strict=True)
        ]
        return torch.cat(rows)
