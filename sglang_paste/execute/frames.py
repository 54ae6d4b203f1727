"""What a worker and its owner say to each other: length-prefixed msgpack frames over a pair of pipes.

Arguments and results travel as JSON text, because msgpack knows no integers beyond 64 bits.
"""

import struct
from typing import Any

import msgspec

from sglang_paste.errors import WireError

HEADER = struct.Struct(">I")
TRACE_LIMIT = 16 * 1024


class Load(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Import `function` (`module:name`), with `folder` first on the path."""

    function: str
    folder: str


class Call(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Run the function; text over `limit` bytes is cut."""

    arguments: str
    limit: int


class Loaded(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The function is there. `parameters` is JSON, None where its signature cannot be said as a schema (`reason`)."""

    description: str
    parameters: str | None
    reason: str = ""


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The function cannot be used."""

    reason: str


class Returned(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What a call came to; `structured` is JSON, `trace` a traceback for the log."""

    content: str
    is_error: bool = False
    truncated: bool = False
    structured: str | None = None
    trace: str = ""


Frame = Load | Call | Loaded | Failed | Returned

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder(Frame)


def encode(frame: Frame) -> bytes:
    """The frame with its length in front."""
    body = _encoder.encode(frame)
    return HEADER.pack(len(body)) + body


def decode(body: bytes) -> Frame:
    """A frame without its length; raises WireError."""
    try:
        frame: Frame = _decoder.decode(body)
    except msgspec.DecodeError as error:
        raise WireError(f"a worker's frame is malformed: {error}") from error
    return frame


def body_length(header: bytes, limit: int) -> int:
    """The length that a header announces; raises WireError where it is over `limit`."""
    (length,) = HEADER.unpack(header)
    if length > limit:
        raise WireError(f"a worker's frame takes {length} bytes; the limit is {limit}")
    return int(length)
