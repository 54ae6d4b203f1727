"""Every place where SGLang is touched: one row per hook.

A row is checked against the installed SGLang before anything is patched, and again in its process once it is applied.
"""

from collections.abc import Iterable
from typing import Literal

import msgspec

Kind = Literal["before", "after", "around", "replace", "override"]
Role = Literal["parser", "main", "scheduler", "detokenizer", "controller"]

SUPPORTED = ((0, 5, 23), (0, 5, 24))


class Hook(msgspec.Struct, frozen=True, kw_only=True):
    """One place, and what stands there.

    `target` is the dotted path of a function, method or class where it is defined. `signature` is how its source
    declares it, without annotations: `(self, size=1)`, with `async`, `classmethod` or `staticmethod` in front where it
    says so, and `class (Base)` for a class. `function` is ours, as `module:name` below `sglang_paste.patches`,
    imported only where it is applied.

    before: `hook(*args) -> (args, kwargs) | None`; after: `hook(result, *args) -> result | None`;
    around: `hook(original, *args) -> result`; replace: a class or function in its place;
    override: a method of a class of ours (`module:Class.method`) that is put in place by other means, so that only its
    signature and its descent are checked.
    """

    target: str
    kind: Kind
    roles: tuple[Role, ...]
    signature: str
    function: str


PARSER = (
    Hook(
        target="sglang.srt.server_args.ServerArgs.add_cli_args",
        kind="after",
        roles=("parser",),
        signature="staticmethod (parser)",
        function="launch:add_flags",
    ),
    Hook(
        target="sglang.srt.server_args.ServerArgs.from_cli_args",
        kind="around",
        roles=("parser",),
        signature="classmethod (cls, args)",
        function="launch:read_flags",
    ),
    Hook(
        target="sglang.srt.server_args.ServerArgs.resolve_once",
        kind="after",
        roles=("parser",),
        signature="(self)",
        function="launch:arm_main",
    ),
)

SIDE_PROCESS = (
    Hook(
        target="sglang.srt.entrypoints.http_server.launch_server",
        kind="around",
        roles=("main",),
        signature=(
            "(server_args, init_tokenizer_manager_func=init_tokenizer_manager,"
            " run_scheduler_process_func=run_scheduler_process,"
            " run_detokenizer_process_func=run_detokenizer_process,"
            " execute_warmup_func=_execute_server_warmup, launch_callback=None)"
        ),
        function="launch:with_side_process",
    ),
    Hook(
        target="sglang.srt.entrypoints.http_server._setup_and_run_http_server",
        kind="before",
        roles=("main",),
        signature=(
            "(server_args, tokenizer_manager, template_manager, port_args, scheduler_infos, subprocess_watchdog,"
            " execute_warmup_func=_execute_server_warmup, launch_callback=None)"
        ),
        function="launch:wait_for_gateway",
    ),
)

BOUNDARIES = (
    Hook(
        target="sglang.srt.managers.scheduler.Scheduler._add_request_to_queue",
        kind="around",
        roles=("scheduler",),
        signature="(self, req, is_retracted=False)",
        function="scheduler:queued",
    ),
    Hook(
        target="sglang.srt.managers.schedule_batch.Req.update_finish_state",
        kind="after",
        roles=("scheduler",),
        signature="(self, new_accepted_len=1)",
        function="scheduler:committed",
    ),
    Hook(
        target="sglang.srt.managers.scheduler._make_abort_req",
        kind="after",
        roles=("scheduler",),
        signature="(req, finished_reason=None)",
        function="scheduler:aborted",
    ),
    Hook(
        target="sglang.srt.entrypoints.openai.serving_chat.OpenAIServingChat._convert_to_internal_request",
        kind="after",
        roles=("main",),
        signature="(self, request, raw_request=None)",
        function="serving_chat:converted",
    ),
    Hook(
        target="sglang.srt.entrypoints.openai.serving_chat.OpenAIServingChat._build_chat_response",
        kind="after",
        roles=("main",),
        signature="(self, request, ret, created)",
        function="serving_chat:built",
    ),
    Hook(
        target="sglang.srt.entrypoints.openai.serving_chat.OpenAIServingChat._process_tool_call_stream",
        kind="around",
        roles=("main",),
        signature=(
            "async (self, index, delta, parser_dict, content, request, has_tool_calls, created,"
            " continuous_usage_stats=False, flush=False)"
        ),
        function="serving_chat:streamed",
    ),
    Hook(
        target="sglang.srt.entrypoints.openai.serving_responses.OpenAIServingResponses.create_responses",
        kind="around",
        roles=("main",),
        signature="async (self, request, raw_request=None)",
        function="serving_responses:created",
    ),
    Hook(
        target=("sglang.srt.entrypoints.openai.serving_responses.OpenAIServingResponses._generate_with_builtin_tools"),
        kind="around",
        roles=("main",),
        signature=(
            "async (self, request_id, request_prompt, adapted_request, sampling_params, context, raw_request=None,"
            " priority=None, **kwargs)"
        ),
        function="serving_responses:generating",
    ),
    Hook(
        target=("sglang.srt.entrypoints.openai.serving_responses.OpenAIServingResponses._make_response_output_items"),
        kind="after",
        roles=("main",),
        signature=(
            "(self, request, final_output, tokenizer, output_logprobs=None, *, require_reasoning, output_ids=None,"
            " finish_reason=None)"
        ),
        function="serving_responses:made_items",
    ),
    Hook(
        target=(
            "sglang.srt.entrypoints.openai.serving_responses.OpenAIServingResponses"
            ".responses_stream_generator_non_harmony"
        ),
        kind="around",
        roles=("main",),
        signature=(
            "async (self, request, sampling_params, result_generator, model_name, tokenizer, request_metadata,"
            " created_time=None, *, require_reasoning, tool_adapter=None)"
        ),
        function="serving_responses:streamed",
    ),
    Hook(
        target="sglang.srt.managers.tokenizer_manager.TokenizerManager._create_tokenized_object",
        kind="after",
        roles=("main",),
        signature="(self, obj, input_text, input_ids, input_embeds=None, mm_inputs=None, token_type_ids=None)",
        function="tokenizer_manager:tokenized",
    ),
    Hook(
        target="sglang.srt.managers.tokenizer_manager.TokenizerManager.update_request_meta_info",
        kind="after",
        roles=("main",),
        signature="(self, meta_info, state, customized_info, index, finish_reason)",
        function="tokenizer_manager:counted",
    ),
)

DELTA_TURNS = (
    Hook(
        target="sglang.srt.entrypoints.openai.serving_chat.OpenAIServingChat._convert_to_internal_request",
        kind="around",
        roles=("main",),
        signature="(self, request, raw_request=None)",
        function="turns:converting",
    ),
    Hook(
        target="sglang.srt.entrypoints.openai.serving_responses.OpenAIServingResponses._make_request",
        kind="around",
        roles=("main",),
        signature="async (self, request, prev_response, tokenizer, *, tool_adapter=None)",
        function="turns:making",
    ),
    Hook(
        target="sglang.srt.entrypoints.openai.serving_chat.OpenAIServingChat._apply_jinja_template",
        kind="around",
        roles=("main",),
        signature="(self, request, tools, is_multimodal)",
        function="turn_messages:rendering",
    ),
    Hook(
        target="sglang.srt.entrypoints.openai.serving_chat.OpenAIServingChat._render_and_encode_chat_template",
        kind="around",
        roles=("main",),
        signature="(self, messages, *, tools, template_kwargs, encode_kwargs, use_cache, add_generation_prompt=True)",
        function="turn_render:encoding",
    ),
    Hook(
        target="sglang.srt.entrypoints.openai.parallel_prompt_encode.parallel_prompt_encode",
        kind="around",
        roles=("main",),
        signature="(tokenizer, text, encode_kwargs=None)",
        function="turns:encoding",
    ),
    Hook(
        target="sglang.srt.managers.tokenizer_manager.TokenizerManager._tokenize_one_request",
        kind="around",
        roles=("main",),
        signature="async (self, obj)",
        function="turns:tokenizing",
    ),
    Hook(
        target="sglang.srt.managers.tokenizer_manager.TokenizerManager._tokenize_texts",
        kind="around",
        roles=("main",),
        signature="async (self, texts, is_cross_encoder=False)",
        function="turns:tokenizing_texts",
    ),
    Hook(
        target="sglang.srt.managers.tokenizer_manager.TokenizerManager._handle_batch_output",
        kind="before",
        roles=("main",),
        signature="async (self, recv_obj)",
        function="turns:answered",
    ),
)

RETENTION = (
    Hook(
        target="sglang.srt.mem_cache.registry.create_unified_radix_cache",
        kind="around",
        roles=("scheduler",),
        signature="(ctx, *, cache_class=None)",
        function="retention_cache:made",
    ),
    Hook(
        target="sglang.srt.mem_cache.unified_radix_cache.UnifiedRadixCache._evict",
        kind="override",
        roles=("scheduler",),
        signature="(self, params, available_size_targets=None, *, allocation_reclaim_satisfied=None)",
        function="retention_cache:RetainingCache._evict",
    ),
    Hook(
        target="sglang.srt.mem_cache.unified_radix_cache.UnifiedRadixCache.on_release",
        kind="override",
        roles=("scheduler",),
        signature="(self, req, *, checkpointed)",
        function="retention_cache:RetainingCache.on_release",
    ),
    Hook(
        target="sglang.srt.mem_cache.unified_radix_cache.UnifiedRadixCache.reset",
        kind="override",
        roles=("scheduler",),
        signature="(self)",
        function="retention_cache:RetainingCache.reset",
    ),
    Hook(
        target="sglang.srt.managers.scheduler.Scheduler._add_request_to_queue",
        kind="before",
        roles=("scheduler",),
        signature="(self, req, is_retracted=False)",
        function="rounds:queued",
    ),
    Hook(
        target="sglang.srt.managers.scheduler._make_abort_req",
        kind="after",
        roles=("scheduler",),
        signature="(req, finished_reason=None)",
        function="retention:aborted",
    ),
    Hook(
        target="sglang.srt.managers.scheduler_components.output_streamer.SchedulerOutputStreamer.stream_output",
        kind="before",
        roles=("scheduler",),
        signature="(self, reqs, return_logprob, skip_req=None)",
        function="retention:streaming",
    ),
)

WARMING = (
    Hook(
        target="sglang.srt.managers.scheduler_components.request_receiver.SchedulerRequestReceiver._pull_raw_reqs",
        kind="after",
        roles=("scheduler",),
        signature="(self)",
        function="intake:pulled",
    ),
    Hook(
        target="sglang.srt.managers.scheduler_components.output_streamer.SchedulerOutputStreamer.stream_output",
        kind="before",
        roles=("scheduler",),
        signature="(self, reqs, return_logprob, skip_req=None)",
        function="intake:streaming",
    ),
    Hook(
        target="sglang.srt.managers.scheduler.Scheduler.send_abort_output",
        kind="around",
        roles=("scheduler",),
        signature="(self, abort_req, req)",
        function="intake:aborting",
    ),
)

ROUNDS = (
    Hook(
        target="sglang.srt.managers.scheduler.Scheduler.init_request_dispatcher",
        kind="after",
        roles=("scheduler",),
        signature="(self)",
        function="rounds:dispatching",
    ),
    Hook(
        target="sglang.srt.managers.scheduler.Scheduler._poll_timeout_aborts",
        kind="after",
        roles=("scheduler",),
        signature="(self)",
        function="rounds:polled",
    ),
    Hook(
        target="sglang.srt.managers.scheduler.Scheduler._get_new_batch_prefill_raw",
        kind="around",
        roles=("scheduler",),
        signature="(self, prefill_delayer_single_pass, running_batch)",
        function="return_order:admitting",
    ),
)

DRAFTS = (
    Hook(
        target="sglang.srt.function_call.function_call_parser.FunctionCallParser.parse_stream_chunk",
        kind="around",
        roles=("main",),
        signature="(self, chunk_text)",
        function="stream_parser:parsed",
    ),
    Hook(
        target="sglang.srt.speculative.spec_info.SpeculativeAlgorithm.create_worker",
        kind="after",
        roles=("scheduler",),
        signature="(self, server_args)",
        function="draft_worker:chosen",
    ),
    Hook(
        target="sglang.srt.managers.schedule_batch.Req.update_finish_state",
        kind="around",
        roles=("scheduler",),
        signature="(self, new_accepted_len=1)",
        function="draft_finish:finishing",
    ),
    Hook(
        target="sglang.srt.speculative.eagle_utils.eagle_sample",
        kind="around",
        roles=("scheduler",),
        signature=(
            "(verify_input, batch, logits_output, grammar_mask=None, uno_target_max_top_k=None, *,"
            " watermark_state=None, watermark_full_mask=True)"
        ),
        function="draft_sample:verifying",
    ),
    Hook(
        target="sglang.srt.speculative.ngram_worker.NGRAMWorker.forward_batch_generation",
        kind="override",
        roles=("scheduler",),
        signature="(self, batch, on_publish=None, pp_proxy_tensors=None)",
        function="draft_worker:DraftWorker.forward_batch_generation",
    ),
    Hook(
        target="sglang.srt.speculative.ngram_worker.NGRAMWorker._prepare_for_speculative_decoding",
        kind="override",
        roles=("scheduler",),
        signature="(self, batch)",
        function="draft_worker:DraftWorker._prepare_for_speculative_decoding",
    ),
    Hook(
        target="sglang.srt.speculative.ngram_worker.NGRAMWorker._update_ngram_corpus",
        kind="override",
        roles=("scheduler",),
        signature="(self, batch)",
        function="draft_worker:DraftWorker._update_ngram_corpus",
    ),
    Hook(
        target="sglang.srt.speculative.ngram_worker.NGRAMWorker._init_preallocated_tensors",
        kind="override",
        roles=("scheduler",),
        signature="(self)",
        function="draft_worker:DraftWorker._init_preallocated_tensors",
    ),
    Hook(
        target="sglang.srt.speculative.ngram_worker.NGRAMWorker.clear_cache_pool",
        kind="override",
        roles=("scheduler",),
        signature="(self)",
        function="draft_worker:DraftWorker.clear_cache_pool",
    ),
    Hook(
        target="sglang.srt.speculative.base_spec_worker.BaseSpecWorker.note_request_finished",
        kind="override",
        roles=("scheduler",),
        signature="(self, *, rid, natural_stop)",
        function="draft_worker:DraftWorker.note_request_finished",
    ),
    Hook(
        target="sglang.srt.speculative.ngram_worker.NGRAMWorker.on_verify_complete_cpu",
        kind="override",
        roles=("scheduler",),
        signature="(self, num_correct_drafts_per_req, batch_size=0)",
        function="draft_worker:DraftWorker.on_verify_complete_cpu",
    ),
    Hook(
        target="sglang.srt.managers.scheduler.Scheduler.get_output_streamer_class",
        kind="after",
        roles=("scheduler",),
        signature="(self)",
        function="draft_numbers:streamer",
    ),
    Hook(
        target=(
            "sglang.srt.managers.scheduler_components.output_streamer.SchedulerOutputStreamer"
            ".build_additional_customized_info"
        ),
        kind="override",
        roles=("scheduler",),
        signature="(self, reqs)",
        function="draft_numbers:Streamer.build_additional_customized_info",
    ),
)

DRAFT_SOURCES = (
    Hook(
        target="sglang.srt.managers.scheduler.Scheduler.init_request_dispatcher",
        kind="after",
        roles=("scheduler",),
        signature="(self)",
        function="draft_sources:dispatching",
    ),
    Hook(
        target="sglang.srt.managers.scheduler.Scheduler._poll_timeout_aborts",
        kind="after",
        roles=("scheduler",),
        signature="(self)",
        function="draft_sources:polled",
    ),
)

HOOKS: tuple[Hook, ...] = (
    *PARSER,
    *SIDE_PROCESS,
    *BOUNDARIES,
    *DELTA_TURNS,
    *RETENTION,
    *WARMING,
    *ROUNDS,
    *DRAFTS,
    *DRAFT_SOURCES,
)


def hooks_of(role: Role, hooks: Iterable[Hook] | None = None) -> list[Hook]:
    """The rows of a process, in the order of the table."""
    return [hook for hook in (HOOKS if hooks is None else hooks) if role in hook.roles]
