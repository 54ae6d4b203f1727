"""A message of a conversation, reduced to what tells conversations apart."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import msgspec


class MessageCall(msgspec.Struct, frozen=True):
    """A tool call an assistant message carries; `arguments` is JSON text."""

    call_id: str
    tool: str
    arguments: str


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """`answers` is the id of the call whose result a tool message is."""

    role: str
    content: str = ""
    calls: tuple[MessageCall, ...] = ()
    answers: str = ""


def digest(before: bytes, message: Message) -> bytes:
    """The digest of a conversation that is `message` longer than the one with digest `before`.

    Space around a text does not count, and arguments count as JSON values, because clients send back what they
    parsed. Call ids do not count: they identify by themselves.
    """
    hasher = hashlib.blake2b(before, digest_size=16)
    parts = [message.role, message.content.strip()]
    for call in message.calls:
        parts += [call.tool, _value(call.arguments)]
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        hasher.update(len(data).to_bytes(8, "little"))
        hasher.update(data)
    return hasher.digest()


def flatten(content: Any) -> str:
    """A message's content as text; a part that is no text counts with its JSON."""
    if content is None or isinstance(content, str):
        return content or ""
    if isinstance(content, dict):
        text = content.get("text")
        return text if isinstance(text, str) else json.dumps(content, sort_keys=True, default=str)
    if isinstance(content, Iterable):
        return "\n".join(flatten(part) for part in content)
    return str(content)


def _value(arguments: str) -> str:
    try:
        return json.dumps(json.loads(arguments or "{}"), sort_keys=True)
    except (ValueError, RecursionError):
        return arguments
