"""The messages of conversations as a chat template reads them, kept from one request to the next.

SGLang dumps them twice over, value by value, and parses the arguments of all their calls; here, of the new ones only.
"""

import copy
import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel

from sglang_paste.patches.turn_template import Rendering

_LEAVES = frozenset({str, int, float, bool, type(None)})
_MESSAGE_BYTES = 2_048


Raw = tuple[type, dict[str, Any]]


class Plain(dict[str, Any]):
    """A message as JSON data; its deep copy is made of plain dictionaries. The calls of one that is `settled` are
    shared by its copies: nothing changes them once their arguments are parsed."""

    settled = False

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        twin = dict(self)
        for name, value in self.items():
            if type(value) not in _LEAVES and not (self.settled and name == "tool_calls"):
                twin[name] = _copied(value, memo)
        return twin


class Past(NamedTuple):
    """A conversation at a request: its messages with their kinds, None for each that cannot be known again; the same as
    they were made ready; what their rendering left; and its bytes."""

    raw: Sequence[Raw | None]
    ready: Sequence[Plain]
    rendering: Rendering | None
    size: int


class Pasts:
    """Conversations, found by their messages. Bounded in bytes; the longest unused go first. Thread-safe."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._pasts: OrderedDict[Hashable, Past] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._pasts)

    def find(self, keys: Sequence[Hashable]) -> Past | None:
        """The longest conversation that one with these beginnings may continue."""
        with self._lock:
            for key in reversed(keys):
                if key in self._pasts:
                    self._pasts.move_to_end(key)
                    return self._pasts[key]
        return None

    def add(self, key: Hashable, past: Past, before: Hashable) -> None:
        """Keep a conversation in the place of a shorter one that it continues."""
        with self._lock:
            self._remove(before)
            self._remove(key)
            self._pasts[key] = past
            self._size += past.size
            while self._size > self._capacity:
                self._remove(next(iter(self._pasts)))

    def _remove(self, key: Hashable) -> None:
        past = self._pasts.pop(key, None)
        if past is not None:
            self._size -= past.size


class Present:
    """The conversation whose prompt is being made. `rendering` is what can be resumed, and then what is left."""

    def __init__(self, tenant: str, messages: Sequence[BaseModel], pasts: Pasts) -> None:
        self._messages, self._pasts = messages, pasts
        self._keys = _keys(tenant, messages)
        self._raw: list[Raw] = [(type(message), message.model_dump()) for message in messages]
        past = pasts.find(self._keys)
        self._known = 0 if past is None else _common(past.raw, self._raw)
        self.ready = [] if past is None else list(past.ready[: self._known])
        self._before = self._keys[len(past.raw) - 1] if past is not None else None
        self.rendering = None if past is None else past.rendering

    def views(self) -> "list[_Message]":
        """The messages, as SGLang reads them."""
        return [
            _Message(message, self, self.ready[place] if place < self._known else None)
            for place, message in enumerate(self._messages)
        ]

    def keep(self) -> None:
        """Once all are rendered: keep the conversation for its next request."""
        if len(self.ready) != len(self._messages):
            return
        raw: list[Raw | None] = list(self._raw)
        for place in range(self._known, len(raw)):
            self.ready[place].settled = True
            raw[place] = raw[place] if _is_text(self._messages[place]) else None
        size = _MESSAGE_BYTES * len(raw) + 2 * sum(map(_length, self.ready))
        self._pasts.add(self._keys[-1], Past(raw, self.ready, self.rendering, size), self._before)


class _Message:
    """A message of the request, of which the data is `Plain`."""

    __slots__ = ("_dump", "_message", "_present")

    def __init__(self, message: BaseModel, present: Present, dump: Plain | None) -> None:
        self._message, self._present, self._dump = message, present, dump

    def __getattr__(self, name: str) -> Any:
        return getattr(self._message, name)

    def model_dump(self, *args: Any, **kwargs: Any) -> Plain:
        if args or kwargs:
            return Plain(self._message.model_dump(*args, **kwargs))
        if self._dump is None:
            self._dump = Plain(self._message.model_dump())
            self._present.ready.append(self._dump)
        return self._dump


def _keys(tenant: str, messages: Sequence[BaseModel]) -> list[int]:
    """Digests of a conversation's beginnings, one for each message."""
    keys: list[int] = []
    key = hash(tenant)
    for message in messages:
        content = message.__dict__.get("content")
        key = hash((key, message.__dict__.get("role"), content if type(content) is str else None))
        keys.append(key)
    return keys


def _common(known: Sequence[Raw | None], others: Sequence[Raw]) -> int:
    for place, (one, other) in enumerate(zip(known, others, strict=False)):
        if one is None or one != other:
            return place
    return min(len(known), len(others))


def _is_text(value: Any) -> bool:
    """Whether a message has texts in the fields of its kind and nothing else, so that another that equals it is written
    as it is. Numbers need not be (`True == 1`), nor need what has an order of its own."""
    if isinstance(value, BaseModel):
        return not value.__pydantic_extra__ and all(map(_is_text, value.__dict__.values()))
    return all(map(_is_text, value)) if type(value) is list else value is None or type(value) is str


def _length(dump: Plain) -> int:
    content = dump.get("content")
    return len(content) if isinstance(content, str) else 0


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    kind = type(value)
    if kind in _LEAVES:
        return value
    if kind is dict:
        return {name: _copied(item, memo) for name, item in value.items()}
    if kind is list:
        return [_copied(item, memo) for item in value]
    return copy.deepcopy(value, memo)
