"""Hooks of the API process by which a turn's prompt is tokenised from where the last one ended."""

import logging
from collections.abc import Callable, Hashable, Mapping
from contextvars import ContextVar
from typing import Any

from sglang_paste.patches import arm
from sglang_paste.patches.api_turn import harmless, tenant_of
from sglang_paste.patches.turn_codec import codec_of
from sglang_paste.patches.turn_metrics import turn_metrics
from sglang_paste.patches.turn_past import Pasts
from sglang_paste.session.delta import Counts, DeltaTokenizer, Prompt
from sglang_paste.session.kept import KeptPrompts

logger = logging.getLogger(__name__)

_PROMPT = "_paste_prompt"

# The chat or responses request, or the request to /generate, whose prompt is being made.
_chat: ContextVar[Any] = ContextVar("paste_turns_chat", default=None)
_text: ContextVar[Any] = ContextVar("paste_turns_text", default=None)


class Turns:
    """The prompts of a server's conversations, within a bound in bytes."""

    def __init__(self, capacity: int, *, metrics: bool = False) -> None:
        self.counts = Counts()
        self.prompts = KeptPrompts(capacity * 3 // 4)
        self.pasts = Pasts(capacity // 4)
        self._tokenizers: dict[tuple[int, bool], DeltaTokenizer | None] = {}
        self._held: list[Any] = []
        self._metrics = turn_metrics(self.counts) if metrics else None

    def tokenizer(self, tokenizer: Any, *, lead: bool) -> DeltaTokenizer | None:
        """The delta tokenizer of a tokenizer, or None for one that cannot be used so."""
        key = (id(tokenizer), lead)
        if key not in self._tokenizers:
            codec = codec_of(tokenizer, lead=lead)
            self._held.append(tokenizer)
            self._tokenizers[key] = None if codec is None else DeltaTokenizer(codec, self.prompts, self.counts)
            if codec is None:
                logger.warning("prompts are tokenised as a whole: their tokenizer is not one that can be cut")
        return self._tokenizers[key]

    def encode(self, delta: DeltaTokenizer, scope: Hashable, text: str) -> Prompt | None:
        """What `delta` finds of a prompt, counted."""
        prompt = delta.extend(scope, text)
        if self._metrics is not None:
            self._metrics.follow()
        return prompt


_turns: Turns | None = None


def turns() -> Turns:
    """Those of this process; made at the first request."""
    global _turns
    if _turns is None:
        from sglang.srt.runtime_context import get_observability

        memory = arm.settings().session_memory * 1024 * 1024
        _turns = Turns(memory, metrics=get_observability().enable_metrics)
    return _turns


def active() -> bool:
    """Whether a chat's prompt is being made that may be kept."""
    return _chat.get() is not None and arm.settings().session_memory > 0


def converting(original: Callable[..., Any], serving: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
    """Around `OpenAIServingChat._convert_to_internal_request`: what is below it gets to know the request."""
    if serving.tokenizer_manager.model_config.is_multimodal:
        return original(serving, request, *args, **kwargs)
    token = _chat.set(request)
    try:
        return original(serving, request, *args, **kwargs)
    finally:
        _chat.reset(token)


async def making(original: Callable[..., Any], serving: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
    """Around `OpenAIServingResponses._make_request`: the same."""
    if serving.tokenizer_manager.model_config.is_multimodal:
        return await original(serving, request, *args, **kwargs)
    token = _chat.set(request)
    try:
        return await original(serving, request, *args, **kwargs)
    finally:
        _chat.reset(token)


def encoding(
    original: Callable[..., Any], tokenizer: Any, text: Any, encode_kwargs: Mapping[str, Any] | None = None
) -> Any:
    """Around `parallel_prompt_encode`: the tokens of a chat's prompt."""
    request = _chat.get()
    if request is None or not isinstance(text, str) or not text or (encode_kwargs or {}).get("add_special_tokens"):
        return original(tokenizer, text, encode_kwargs)
    delta = _delta(tokenizer, lead=False)
    if delta is None:
        return original(tokenizer, text, encode_kwargs)
    scope = (tenant_of(request), False)
    prompt = turns().encode(delta, scope, text)
    if prompt is None:
        prompt = delta.keep(scope, text, original(tokenizer, text, encode_kwargs))
    if _takes_arrays(request):
        return prompt
    turns().prompts.answered(prompt.kept, 0, ())
    return prompt.tolist()


async def tokenizing(original: Callable[..., Any], manager: Any, obj: Any) -> Any:
    """Around `TokenizerManager._tokenize_one_request`: what is below it gets to know a request for text alone."""
    if manager.mm_processor is not None or not hasattr(obj, "return_prompt_token_ids") or not isinstance(obj.text, str):
        return await original(manager, obj)
    token = _text.set(obj)
    try:
        return await original(manager, obj)
    finally:
        _text.reset(token)


async def tokenizing_texts(
    original: Callable[..., Any], manager: Any, texts: Any, is_cross_encoder: bool = False
) -> Any:
    """Around `TokenizerManager._tokenize_texts`: the tokens of such a request."""
    obj = _text.get()
    if obj is None or texts is not obj.text or not texts or is_cross_encoder:
        return await original(manager, texts, is_cross_encoder)
    delta = _delta(manager.tokenizer, lead=True)
    if delta is None:
        return await original(manager, texts, is_cross_encoder)
    scope = (tenant_of(obj), True)
    prompt, types = turns().encode(delta, scope, texts), None
    if prompt is None:
        tokens, types = await original(manager, texts, is_cross_encoder)
        prompt = delta.keep(scope, texts, tokens)
    object.__setattr__(obj, _PROMPT, prompt)
    return prompt, types


@harmless
def answered(manager: Any, outputs: Any) -> None:
    """Before `TokenizerManager._handle_batch_output`: what the model answered, once it is complete."""
    reasons, parts = outputs.finished_reasons, getattr(outputs, "output_ids", None)
    if parts is None:
        return
    for place, reason in enumerate(reasons):
        if reason is None:
            continue
        state = manager.rid_to_state.get(outputs.rids[place])
        prompt = _prompt(state.obj) if state is not None else None
        if prompt is not None:
            tokens = [*state.output_ids, *parts[place]] if reason.get("type") in ("stop", "length") else ()
            turns().prompts.answered(prompt.kept, len(prompt), tokens)


def _delta(tokenizer: Any, *, lead: bool) -> DeltaTokenizer | None:
    try:
        return turns().tokenizer(tokenizer, lead=lead) if arm.settings().session_memory else None
    except Exception:
        logger.exception("prompts are tokenised as a whole")
        return None


def _prompt(obj: Any) -> Prompt | None:
    for prompt in (getattr(obj, _PROMPT, None), getattr(obj, "input_ids", None)):
        if isinstance(prompt, Prompt):
            return prompt
    return None


def _takes_arrays(request: Any) -> bool:
    """Whether SGLang only reads the prompt of a request. It adds to the list where it continues a message, and
    repeats it where it makes several choices."""
    many = (getattr(request, "n", 1) or 1) > 1
    return not many and not getattr(request, "continue_final_message", False)
