"""SGLang's model runner inside this process, without server or scheduler, so that two backends run the same work."""

import json
import os
import warnings
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

TINY = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "bfloat16",
    "vocab_size": 49152,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
}


def write_tiny_model(folder: Path) -> Path:
    """A two-layer configuration for `load_format="dummy"`; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(TINY))
    return folder


def load_runner(model: Path, *, tokens: int, **arguments: Any) -> Any:
    """A ModelRunner with `tokens` KV slots and the backend torch_native. One per process."""
    os.environ.setdefault("SGLANG_USE_CPU_ENGINE", "1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    warnings.simplefilter("ignore")
    from sglang.benchmark import one_batch
    from sglang.srt.server_args import PortArgs, ServerArgs

    server_args = ServerArgs(
        model_path=str(model),
        device="cpu",
        attention_backend="torch_native",
        sampling_backend="pytorch",
        max_total_tokens=tokens,
        mem_fraction_static=0.4,
        disable_overlap_schedule=True,
        skip_tokenizer_init=True,
        **arguments,
    )
    server_args.resolve_once()
    one_batch._set_envs_and_config(server_args)
    ranks = one_batch.SpawnRanks(world_rank=one_batch.spawn_world_rank(server_args, tp_rank=0, pp_rank=0), gpu_id=0)
    one_batch.publish(server_args, role="scheduler", ranks=ranks)
    one_batch._init_process_global_configs()
    port = PortArgs.init_new(server_args).nccl_port
    config = one_batch.ModelConfig.from_server_args(server_args)
    one_batch.bootstrap.init_parallel_runtime(server_args=server_args, device="cpu", dist_port=port)
    one_batch.bootstrap.init_layer_runtime(model_config=config)
    runner = one_batch.ModelRunner(
        model_config=config,
        mem_fraction_static=server_args.mem_fraction_static,
        gpu_id=0,
        nccl_port=port,
        server_args=server_args,
    )
    runner.alloc_memory_pool()
    runner.init_attention_backends()
    runner.init_cuda_graphs()
    return runner


def paste_backend(runner: Any) -> Any:
    from sglang_paste.patches.cpu.attention_backend import PasteCpuBackend

    backend = PasteCpuBackend(runner)
    if backend.exact:
        backend.exact.disarm()
    return backend


@contextmanager
def using(runner: Any, backend: Any) -> Iterator[None]:
    """Run with `backend` and the kernels that belong to it; what was there before is put back."""
    before = runner.attn_backend, runner.decode_attn_backend
    runner.attn_backend = runner.decode_attn_backend = backend
    exact = getattr(backend, "exact", None)
    if exact:
        exact.arm()
    try:
        yield
    finally:
        if exact:
            exact.disarm()
        runner.attn_backend, runner.decode_attn_backend = before


def clear(runner: Any) -> None:
    runner.req_to_token_pool.clear()
    runner.token_to_kv_pool_allocator.clear()


def request(tokens: Sequence[int], name: str) -> Any:
    """A greedy request that has computed nothing yet."""
    from sglang.srt.managers.schedule_batch import Req
    from sglang.srt.sampling.sampling_params import SamplingParams

    req = Req(
        rid=name,
        origin_input_text="",
        origin_input_ids=array("q", tokens),
        sampling_params=SamplingParams(temperature=0, max_new_tokens=1 << 20),
    )
    req.full_untruncated_fill_ids = req.origin_input_ids
    req.logprob_start_len = -1
    req.extend_end = len(tokens)
    return req


def prefill(runner: Any, prompts: Sequence[Sequence[int]]) -> tuple[Any, Any, Any]:
    """Compute prompts from nothing; returns next tokens [requests], logits [requests, vocabulary] and the batch."""
    batch, forward = _extend([request(tokens, str(index)) for index, tokens in enumerate(prompts)], runner)
    tokens, logits = _run(runner, forward)
    return tokens, logits, batch


def decode(runner: Any, tokens: Any, batch: Any) -> tuple[Any, Any]:
    """One step for every request of the batch; returns next tokens and logits."""
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch

    batch.input_ids = tokens.long()
    batch.prepare_for_decode()
    return _run(runner, ForwardBatch.init_new(batch, runner, return_hidden_states_before_norm=False))


def extension(runner: Any, batch: Any, tokens: Sequence[int]) -> Callable[[], Any]:
    """What computes `tokens` behind the one request of `batch` and returns their logits; it can be called again."""
    (req,) = batch.reqs
    known = len(req.full_untruncated_fill_ids)
    req.full_untruncated_fill_ids.extend(tokens)
    req.prefix_len, req.extend_end = known, known + len(tokens)
    _, forward = _extend([req], runner)
    return lambda: _run(runner, forward)[1]


def verification(runner: Any, batch: Any, tokens: Sequence[int]) -> Callable[[], Any]:
    """What verifies `tokens`, a chain of drafts behind the one request of `batch`, and returns the logits of each."""
    from sglang.srt.model_executor.forward_batch_info import ForwardMode

    (req,) = batch.reqs
    known = len(req.full_untruncated_fill_ids)
    req.full_untruncated_fill_ids.extend(tokens)
    req.prefix_len, req.extend_end = known, known + len(tokens)
    _, forward = _extend([req], runner)
    forward.forward_mode = ForwardMode.TARGET_VERIFY
    forward.seq_lens, forward.seq_lens_cpu = forward.seq_lens - len(tokens), forward.seq_lens_cpu - len(tokens)
    forward.spec_info = SimpleNamespace(draft_token_num=len(tokens), custom_mask=None, is_draft_input=lambda: False)
    return lambda: _run(runner, forward)[1]


def _extend(reqs: list[Any], runner: Any) -> tuple[Any, Any]:
    from sglang.benchmark.one_batch import TreeCacheNamespace
    from sglang.srt.managers.schedule_batch import ScheduleBatch
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch
    from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

    batch = ScheduleBatch.init_new(
        reqs=reqs,
        req_to_token_pool=runner.req_to_token_pool,
        token_to_kv_pool_allocator=runner.token_to_kv_pool_allocator,
        tree_cache=TreeCacheNamespace(
            page_size=1, device="cpu", token_to_kv_pool_allocator=runner.token_to_kv_pool_allocator
        ),
        model_config=runner.model_config,
        enable_overlap=False,
        spec_algorithm=SpeculativeAlgorithm.NONE,
    )
    batch.prepare_for_extend()
    if batch.input_ids is None:
        batch.input_ids, batch.prefill_input_ids_cpu = batch.prefill_input_ids_cpu, None
    return batch, ForwardBatch.init_new(batch, runner, return_hidden_states_before_norm=False)


def _run(runner: Any, forward: Any) -> tuple[Any, Any]:
    import torch

    with torch.no_grad():
        output = runner.forward(forward).logits_output
        return runner.sample(output, forward), output.next_token_logits
