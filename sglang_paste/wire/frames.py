"""Messages as frames: msgspec-msgpack of one message or of a list of them, at most 1 MiB."""

from collections.abc import Sequence
from math import isfinite
from typing import NamedTuple

import msgspec

from sglang_paste.errors import WireError
from sglang_paste.events import Message

MAX_FRAME_BYTES = 1024 * 1024

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message | list[Message])


class Frame(NamedTuple):
    """What is sent at once, and how many messages that is."""

    data: bytes
    messages: int


def encode(messages: Sequence[Message]) -> list[Frame]:
    """The frames that carry `messages` in order: one, or one each where together they are too large.

    A message that is too large by itself has no frame; nor has one that msgpack cannot express: a model may write
    half a character or any number into its arguments.
    """
    if not messages:
        return []
    data = _encoded(messages[0] if len(messages) == 1 else list(messages))
    if data is not None:
        return [Frame(data, len(messages))]
    if len(messages) == 1:
        return []
    return [Frame(data, 1) for message in messages if (data := _encoded(message)) is not None]


def _encoded(value: Message | list[Message]) -> bytes | None:
    try:
        data = _encoder.encode(value)
    except (ValueError, OverflowError, RecursionError):
        return None
    return data if len(data) <= MAX_FRAME_BYTES else None


def decode(frame: bytes) -> list[Message]:
    """The messages of a frame; raises WireError where it is oversized or not ours."""
    if len(frame) > MAX_FRAME_BYTES:
        raise WireError(f"a frame has {len(frame)} bytes; the limit is {MAX_FRAME_BYTES}")
    try:
        value = _decoder.decode(frame)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise WireError(f"a frame is malformed ({error})") from error
    messages = value if isinstance(value, list) else [value]
    if not all(isfinite(message.time) for message in messages):
        raise WireError("a frame is malformed (a time is not finite)")
    return messages
