"""The hook by which only the new messages of a chat request are made ready for its template.

SGLang dumps all messages of a conversation, copies them twice, value by value, and parses the arguments of all calls.
"""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from sglang_paste.patches import turns
from sglang_paste.patches.api_turn import tenant_of
from sglang_paste.patches.turn_past import Present

_present: ContextVar[Present | None] = ContextVar("paste_present", default=None)


def present() -> Present | None:
    """The conversation that is being rendered."""
    return _present.get()


def rendering(original: Callable[..., Any], serving: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
    """Around `OpenAIServingChat._apply_jinja_template`: a conversation's old messages are what they were."""
    if not turns.active() or serving._encoding_adapter is not None or serving.chat_encoding_spec is not None:
        return original(serving, request, *args, **kwargs)
    fields = request.__dict__
    messages = fields["messages"]
    conversation = Present(tenant_of(request), messages, turns.turns().pasts)
    token = _present.set(conversation)
    fields["messages"] = conversation.views()
    try:
        result = original(serving, request, *args, **kwargs)
    finally:
        fields["messages"] = messages
        _present.reset(token)
    conversation.keep()
    return result
