"""The hook that renders a chat's prompt from where its last rendering can be resumed."""

import inspect
import logging
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

from sglang_paste.patches.turn_messages import present
from sglang_paste.patches.turn_past import Present
from sglang_paste.patches.turn_template import Resumable

logger = logging.getLogger(__name__)

# The first resumed renderings of a template are compared with those of the tokenizer.
_TRIALS = 4


class Templates:
    """The chat templates that were seen. Thread-safe."""

    def __init__(self) -> None:
        self._known: dict[str, Resumable | None] = {}
        self._resumed: dict[str, int] = {}
        self._lock = threading.Lock()

    def get(self, source: str) -> Resumable | None:
        """The template, or None for one that is always rendered as a whole."""
        with self._lock:
            if source not in self._known:
                self._known[source] = resumable(source)
            return self._known[source]

    def is_on_trial(self, source: str) -> bool:
        """Whether a rendering that was resumed is one of the first."""
        with self._lock:
            self._resumed[source] = self._resumed.get(source, 0) + 1
            return self._resumed[source] <= _TRIALS

    def refuse(self, source: str) -> None:
        """From now on, render this one as a whole."""
        logger.error("a chat template is rendered as a whole: resumed, its text was another")
        with self._lock:
            self._known[source] = None


_templates = Templates()


def encoding(
    original: Callable[..., Any],
    serving: Any,
    messages: list[dict[str, Any]],
    *,
    encode_kwargs: dict[str, Any],
    use_cache: bool,
    **kwargs: Any,
) -> Any:
    """Around `OpenAIServingChat._render_and_encode_chat_template`: of the text, only what is new is rendered."""
    conversation = present()
    text = None
    if conversation is not None and messages and not use_cache:
        text = _text(serving, conversation, messages, **kwargs)
    if text is None:
        return original(serving, messages, encode_kwargs=encode_kwargs, use_cache=use_cache, **kwargs)
    from sglang.srt.entrypoints.openai import serving_chat

    return serving_chat.parallel_prompt_encode(serving.tokenizer_manager.tokenizer, text, encode_kwargs), None


def _text(
    serving: Any,
    conversation: Present,
    messages: list[dict[str, Any]],
    *,
    tools: list[Any] | None,
    template_kwargs: dict[str, Any],
    add_generation_prompt: bool = True,
) -> str | None:
    """The prompt as the tokenizer renders it, or None where that is left to the tokenizer, errors above all."""
    tokenizer = serving.tokenizer_manager.tokenizer
    if not _is_rendered_by_jinja(serving, tokenizer, tools, template_kwargs):
        return None
    last, conversation.rendering = conversation.rendering, None
    try:
        source = tokenizer.get_chat_template(None, tools)
        template = _templates.get(source)
        if template is None:
            return None
        own = {"tools": tools, "documents": None, "add_generation_prompt": add_generation_prompt}
        text, left = template.render(messages, last, {**tokenizer.special_tokens_map, **template_kwargs, **own})
    except Exception:
        return None
    if left is not None and left.resumed and _templates.is_on_trial(source):
        given = {"add_generation_prompt": add_generation_prompt, "tools": tools, **template_kwargs}
        if text != tokenizer.apply_chat_template(messages, tokenize=False, return_dict=False, **given):
            _templates.refuse(source)
            return None
    conversation.rendering = left
    return text


def _is_rendered_by_jinja(serving: Any, tokenizer: Any, tools: list[Any] | None, template_kwargs: Any) -> bool:
    """Whether the prompt is what `apply_chat_template` of transformers makes of messages and tools alone."""
    base, reserved = _transformers()
    return (
        not serving._prompt_text_round_trip_is_lossy
        and serving.template_manager.python_chat_template is None
        and getattr(type(tokenizer), "apply_chat_template", None) is base
        and all(type(tool) is dict for tool in tools or ())
        and reserved.isdisjoint(template_kwargs)
    )


@cache
def _transformers() -> tuple[Any, frozenset[str]]:
    from transformers import PreTrainedTokenizerBase
    from transformers.utils import chat_template_utils

    base = PreTrainedTokenizerBase.apply_chat_template
    functions = (base, chat_template_utils.render_jinja_template)
    return base, frozenset({"messages"}.union(*(inspect.signature(function).parameters for function in functions)))


def resumable(source: str) -> Resumable | None:
    """A template, or None for one that is always rendered as a whole."""
    from transformers.utils.chat_template_utils import _compile_jinja_template

    try:
        return Resumable(_compile_jinja_template(source), source)
    except Exception as error:
        logger.info("a chat template is always rendered as a whole: %s", error)
        return None
