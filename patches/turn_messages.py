"""The messages of a chat request, copied without `copy`.

SGLang copies all messages of a conversation twice, value by value, to render them. What it copies was made of JSON a
moment before, so that a copy needs none of what `copy.deepcopy` looks out for, and costs a tenth.
"""

import copy
from collections.abc import Callable
from typing import Any

from sglang_paste.patches import turns

_LEAVES = frozenset({str, int, float, bool, type(None)})


class Plain(dict[str, Any]):
    """A message as JSON data; its deep copy is made of plain dictionaries."""

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        twin = dict(self)
        for name, value in self.items():
            if type(value) not in _LEAVES:
                twin[name] = _copied(value, memo)
        return twin


class _Message:
    """A message of the request, of which the data is `Plain`."""

    __slots__ = ("_message",)

    def __init__(self, message: Any) -> None:
        self._message = message

    def __getattr__(self, name: str) -> Any:
        return getattr(self._message, name)

    def model_dump(self, *args: Any, **kwargs: Any) -> Plain:
        return Plain(self._message.model_dump(*args, **kwargs))


def rendering(original: Callable[..., Any], serving: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
    """Around `OpenAIServingChat._apply_jinja_template`: the messages are copied fast while a template renders them."""
    if not turns.active() or serving._encoding_adapter is not None or serving.chat_encoding_spec is not None:
        return original(serving, request, *args, **kwargs)
    fields = request.__dict__
    messages = fields["messages"]
    fields["messages"] = [_Message(message) for message in messages]
    try:
        return original(serving, request, *args, **kwargs)
    finally:
        fields["messages"] = messages


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    kind = type(value)
    if kind in _LEAVES:
        return value
    if kind is dict:
        return {name: _copied(item, memo) for name, item in value.items()}
    if kind is list:
        return [_copied(item, memo) for item in value]
    return copy.deepcopy(value, memo)
