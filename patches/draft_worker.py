"""The draft worker: SGLang's NGRAM worker with drafts looked up in a request's own text and in hints, as many as pay.

Where a step may have any width (no CUDA graphs, one rank), the gate chooses it, and a step without drafts is a plain
decode step. Elsewhere every step has SGLang's fixed width, nothing is copied to the host, and the gate saves look-ups.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from sglang.kernels.ops.speculative.cache_locs import assign_extend_cache_locs_func
from sglang.srt.model_executor.forward_batch_info import ForwardMode
from sglang.srt.runtime_context import get_device, get_parallel, get_schedule, get_spec
from sglang.srt.speculative.base_spec_worker import BaseSpecWorker
from sglang.srt.speculative.ngram_info import NgramVerifyInput
from sglang.srt.speculative.ngram_worker import NGRAMWorker
from sglang.srt.speculative.spec_utils import prepare_mamba_track_for_verify
from torch import Tensor

from sglang_paste.draft.cost import Step
from sglang_paste.draft.gate import Demand, Gate, Offer, Plan, Rhythm
from sglang_paste.errors import ConfigError
from sglang_paste.kernels.draft_pack import Pack, draft_pack
from sglang_paste.patches.arm import settings
from sglang_paste.patches.draft_grammar import Forced
from sglang_paste.patches.draft_hints import hints
from sglang_paste.patches.draft_history import History
from sglang_paste.patches.draft_limits import is_plain_only, limit_of, prune
from sglang_paste.patches.draft_lookup import Lookup
from sglang_paste.patches.draft_numbers import Numbers


class DraftWorker(NGRAMWorker):  # type: ignore[misc]
    """Takes the place of `NGRAMWorker`; of its corpus nothing is left."""

    def __init__(self, server_args: Any, gpu_id: int, nccl_port: int, target_worker: Any) -> None:
        BaseSpecWorker.__init__(self)
        spec, schedule = get_spec(), get_schedule()
        if spec.speculative_ngram_external_corpus_path is not None:
            raise ConfigError(
                "--speculative-ngram-external-corpus-path is given, and drafts come from sessions and tools here; "
                "leave it out, or start without --enable-tool-speculation"
            )
        self.server_args = server_args
        self.enable_overlap = not schedule.disable_overlap_schedule
        self._target_worker = target_worker
        self.model_runner = target_worker.model_runner
        self.page_size = schedule.page_size
        self.draft_token_num = self.speculative_num_draft_tokens = spec.speculative_num_draft_tokens
        self.topk = spec.speculative_eagle_topk
        self.speculative_num_steps = spec.speculative_num_steps
        self.device = get_device().device
        self.adaptive_controller = None
        self.grammar_tree_host: tuple[Any, Any] | None = None
        self.ngram_corpus = None
        self._prev_decode_rids: set[str] = set()
        self._stride = self.draft_token_num
        self._longest = max(1, self._stride - 1)
        # The gate reads a clock, and ranks that read their own take different steps.
        self._any_width = self.device == "cpu" and get_parallel().tp_size == 1
        # Else the last step's output is not with its requests yet.
        self._catches_up = self._any_width and not self.enable_overlap
        self.gate, self._rhythm = Gate(self._longest), Rhythm()
        self._lookup = Lookup(hints(), self._longest, settings().draft_sources, Forced(target_worker.tokenizer))
        self._numbers = Numbers(metrics=server_args.enable_metrics and get_parallel().tp_rank == 0)
        self._pack: Pack | None = None
        self._ended = 0.0

    def _init_preallocated_tensors(self) -> None:
        slots, context = self.req_to_token_pool.req_to_token.shape
        self._history = History(slots, context, self._stride, self.device)

    def clear_cache_pool(self) -> None:
        self._history.clear()

    def note_request_finished(self, *, rid: str, natural_stop: bool) -> None:
        hints().drop(rid)
        self._lookup.drop(rid)
        self.gate.drop(rid)

    def forward_batch_generation(
        self, batch: Any, on_publish: Callable[[Tensor], None] | None = None, pp_proxy_tensors: Any = None
    ) -> Any:
        """A prefill as it is; a decode batch with drafts."""
        if batch.forward_mode.is_decode() and self._any_width:
            return self._free_step(batch, on_publish)
        if batch.forward_mode.is_decode():
            self._pack, self._prev_decode_rids = self._fixed_pack(batch), set()
        return super().forward_batch_generation(batch, on_publish, pp_proxy_tensors)

    def on_verify_complete_cpu(self, num_correct_drafts_per_req: list[int], batch_size: int = 0) -> None:
        self._rhythm.observe(sum(num_correct_drafts_per_req))

    def _follow(self, batch: Any) -> Tensor:
        """Take in what the last step accepted; returns each request's last token, the root of what is drafted."""
        accepted, accept_lens = batch.spec_info.accept_tokens.view(-1, self._stride), batch.spec_info.accept_lens
        if not self._catches_up:
            self._history.follow(batch, accepted, accept_lens)
        return accepted.gather(1, accept_lens[:, None].long() - 1)[:, 0]

    def _fixed_pack(self, batch: Any) -> Pack:
        """All that was found for a batch, as trees of SGLang's width. Nothing is read from the device."""
        roots, size = self._follow(batch), len(batch.reqs)
        limits = [limit_of(req, length) for req, length in zip(batch.reqs, batch.seq_lens_cpu.tolist(), strict=True)]
        drafts, counts = [roots.new_zeros((size, self._longest))], [roots.new_zeros(size)]
        if self._stride > 1 and any(limits) and not is_plain_only(batch) and self._rhythm.looks_up():
            for found in self._lookup.find(batch.reqs, *self._history.rows(batch)):
                tokens, count = found.spread(size)
                drafts.append(tokens.to(roots.dtype))
                counts.append(count.to(roots.dtype))
        return draft_pack(
            roots,
            torch.stack(drafts, 1),
            torch.stack(counts, 1),
            batch.seq_lens,
            torch.tensor(limits).to(self.device, non_blocking=True),
            width=self._stride,
            shape="chain" if self.topk == 1 else "tree",
            # A mask of the whole text is what GPUs' attention takes.
            seq_lens_sum=None if self.device == "cpu" else int(batch.seq_lens_cpu.sum()),
        )

    def _free_step(self, batch: Any, on_publish: Callable[[Tensor], None] | None) -> Any:
        start = time.perf_counter()
        roots = self._follow(batch)
        demands = self._demands(batch)
        context = int(batch.seq_lens_cpu.sum())
        plan = self.gate.plan(demands, context)
        looked = time.perf_counter()
        result = self._decode(batch, roots) if plan.width == 1 else self._verify(batch, roots, plan, on_publish)
        done = time.perf_counter()
        self._learn(batch.reqs, demands, plan, result)
        beside, between = looked - start + time.perf_counter() - done, start - self._ended
        self.gate.observe(Step(len(batch.reqs), plan.width, context), done - looked, beside, between)
        self._ended = time.perf_counter()
        return result

    def _demands(self, batch: Any) -> list[Demand]:
        """What each request of a batch is offered."""
        lengths = batch.seq_lens_cpu.tolist()
        limits = [limit_of(req, length) for req, length in zip(batch.reqs, lengths, strict=True)]
        offers: list[list[Offer]] = [[] for _ in limits]
        demands = [
            Demand(req.rid, *each) for req, each in zip(batch.reqs, zip(offers, limits, strict=True), strict=True)
        ]
        if self._stride < 2 or not any(limits) or is_plain_only(batch) or not self.gate.looks_up():
            return demands
        if self._catches_up:
            self._history.catch_up(batch)
        for found in self._lookup.find(batch.reqs, *self._history.rows(batch)):
            for row, offer in found.offers():
                usable = prune(batch.reqs[row].grammar, offer.tokens[: limits[row]])
                if usable:
                    offers[row].append(offer._replace(tokens=usable))
        return demands

    def _decode(self, batch: Any, roots: Tensor) -> Any:
        """A plain step, as SGLang takes it without speculation."""
        size, lengths = len(batch.reqs), batch.seq_lens
        batch.input_ids = roots.long()
        batch.out_cache_loc = batch.req_to_token_pool.req_to_token[batch.req_pool_indices, lengths].long()
        batch.seq_lens, batch.seq_lens_cpu = lengths + 1, batch.seq_lens_cpu + 1
        batch.orig_seq_lens, batch.seq_lens_sum = batch.orig_seq_lens + 1, None
        batch.spec_info = None
        result = self.target_worker.forward_batch_generation(batch)
        if batch.return_logprob:
            result.logits_output.next_token_logprobs = result.logits_output.next_token_logprobs.view(size, 1)
        accept_lens = torch.ones(size, dtype=torch.int32, device=self.device)
        return self._handed_on(result, result.next_token_ids, accept_lens, batch.seq_lens, 1)

    def _verify(self, batch: Any, roots: Tensor, plan: Plan, on_publish: Callable[[Tensor], None] | None) -> Any:
        longest = plan.width - 1
        drafts = [list(pick.tokens[:longest]) if pick else [] for pick in plan.picks]
        padded = torch.tensor([draft + [-1] * (longest - len(draft)) for draft in drafts])
        counts = torch.tensor([[len(draft)] for draft in drafts])
        self._pack = draft_pack(
            roots, padded[:, None], counts, batch.seq_lens, counts[:, 0], width=plan.width, shape="chain"
        )
        self.draft_token_num, self._prev_decode_rids = plan.width, set()
        try:
            result = super().forward_batch_generation(batch, on_publish)
        finally:
            self.draft_token_num = self._stride
        return self._handed_on(result, result.next_token_ids, result.accept_lens, result.new_seq_lens, plan.width)

    def _prepare_for_speculative_decoding(self, batch: Any) -> None:
        """Turn a decode batch into the verification of what was packed."""
        if not batch.forward_mode.is_decode() or self._pack is None:
            return
        pack, self._pack = self._pack, None
        _size, width = pack.retrieve_index.shape
        batch.out_cache_loc = self._slots(batch, width)
        prepare_mamba_track_for_verify(batch)
        batch.forward_mode = ForwardMode.TARGET_VERIFY
        batch.input_ids = pack.tokens
        if batch.has_grammar:
            self.grammar_tree_host = pack.mask.cpu().numpy(), pack.tokens.cpu().numpy()
        batch.spec_info = NgramVerifyInput(
            draft_token=pack.tokens,
            custom_mask=pack.mask if pack.full_mask is None else pack.full_mask,
            positions=pack.positions,
            retrieve_index=pack.retrieve_index,
            retrieve_next_token=pack.retrieve_next_token,
            retrieve_next_sibling=pack.retrieve_next_sibling,
            draft_token_num=width,
        )

    def _update_ngram_corpus(self, batch: Any) -> None:
        """There is none."""

    def _slots(self, batch: Any, width: int) -> Tensor:
        slots: Tensor = assign_extend_cache_locs_func(
            req_pool_indices=batch.req_pool_indices,
            req_to_token=batch.req_to_token_pool.req_to_token,
            start_offset=batch.seq_lens,
            end_offset=batch.seq_lens + width,
            batch_size=len(batch.reqs),
            draft_token_num=width,
            device=self.device,
        )
        return slots

    def _handed_on(self, result: Any, tokens: Tensor, accept_lens: Tensor, lengths: Tensor, width: int) -> Any:
        """A step's result with what the next step needs: tokens in rows of one stride, whatever the width was."""
        rows = tokens.view(-1, width)
        accepted = torch.zeros(len(rows), self._stride, dtype=torch.int32, device=self.device)
        accepted[:, :width] = rows
        result.accept_lens, result.new_seq_lens = accept_lens, lengths
        result.speculative_num_draft_tokens, result.speculative_output_stride = self._stride, width
        result.next_draft_input = NgramVerifyInput(
            draft_token_num=self._stride,
            new_seq_lens=lengths,
            accept_tokens=accepted.flatten(),
            accept_lens=accept_lens,
        )
        return result

    def _learn(self, reqs: list[Any], demands: list[Demand], plan: Plan, result: Any) -> None:
        tokens = result.next_token_ids.view(-1, plan.width).tolist()
        counts = result.accept_lens.tolist()
        for req, demand, pick, row, count in zip(reqs, demands, plan.picks, tokens, counts, strict=True):
            self.gate.settle(demand, row[:count])
            if pick is not None:
                self._numbers.count(req, pick.source, min(len(pick.tokens), plan.width - 1), count - 1)
        self._numbers.tell()


def chosen(worker: Any, algorithm: Any, server_args: Any) -> Any:
    """After `SpeculativeAlgorithm.create_worker`: ours in place of the NGRAM worker."""
    return DraftWorker if worker is NGRAMWorker else None
