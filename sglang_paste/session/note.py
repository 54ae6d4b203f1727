"""What the API process tells the scheduler about a request with tools: one JSON text in its sampling parameters."""

from typing import Any

import msgspec

from sglang_paste.calls import SessionId, TenantId
from sglang_paste.errors import WireError

KEY = "paste"
MAX_NOTE_BYTES = 4 * 1024 * 1024


class Note(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`tools` are the OpenAI tools in effect, kept as text so that equal ones are read once. `thinking` is None where
    reasoning is not split off, else whether the output starts within it. `ahead` marks a prompt that is prefilled
    before its session is back: how many of its tokens the cache should have."""

    tenant: TenantId
    session: SessionId
    tools: msgspec.Raw
    choice: str | dict[str, Any] = "auto"
    thinking: bool | None = None
    ahead: int | None = None


class OwnText(str):
    """A note written by us; what a client puts in its place is a plain `str` and is thrown away."""

    __slots__ = ()


def write(note: Note) -> OwnText:
    """The note as text. Raises WireError where it is too large."""
    data = msgspec.json.encode(note)
    if len(data) > MAX_NOTE_BYTES:
        raise WireError(f"the request's tools take {len(data)} bytes; the limit is {MAX_NOTE_BYTES}")
    return OwnText(data.decode())


def read(text: str) -> Note:
    """Raises WireError for what `write` did not write."""
    try:
        return msgspec.json.decode(str(text), type=Note)
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise WireError(f"a request's note cannot be read ({error})") from error
