"""Messages as frames: msgspec-msgpack of one message or of a list of them, at most 1 MiB."""

from collections.abc import Sequence
from math import isfinite

import msgspec

from sglang_paste.errors import WireError
from sglang_paste.events import Message

MAX_FRAME_BYTES = 1024 * 1024

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message | list[Message])


def encode(messages: Sequence[Message]) -> list[bytes]:
    """The frames that carry `messages` in order: one, or one each where together they are too large.

    A message that is too large by itself has no frame.
    """
    if not messages:
        return []
    frame = _encoder.encode(messages[0] if len(messages) == 1 else list(messages))
    if len(frame) <= MAX_FRAME_BYTES:
        return [frame]
    single = (_encoder.encode(message) for message in messages)
    return [frame for frame in single if len(frame) <= MAX_FRAME_BYTES]


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
