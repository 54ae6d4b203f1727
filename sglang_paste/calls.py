"""A tool call, its canonical arguments and its key."""

import hashlib
import json
from collections.abc import Collection
from typing import Any, NewType

import msgspec

from sglang_paste.errors import BadArguments

SessionId = NewType("SessionId", str)
TenantId = NewType("TenantId", str)

DEFAULT_TENANT = TenantId("default")
MAX_ARGUMENT_BYTES = 4 * 1024 * 1024

Arguments = dict[str, Any]


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """One concrete call. `session` and `call_id` are None where the caller did not say."""

    tenant: TenantId
    tool: str
    arguments: Arguments
    session: SessionId | None = None
    call_id: str | None = None


def parse_arguments(text: str | bytes) -> Arguments:
    """The arguments object in `text`; an empty text is an empty object.

    Raises BadArguments where the text is too large, not JSON, or not an object.
    """
    if len(text) > MAX_ARGUMENT_BYTES:
        raise BadArguments(f"the arguments take {len(text)} bytes; the limit is {MAX_ARGUMENT_BYTES}")
    if not text.strip():
        return {}
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadArguments(f"the arguments are not JSON ({error}); send one JSON object") from error
    if not isinstance(value, dict):
        raise BadArguments(f"the arguments are a JSON {_json_type(value)}; send one JSON object")
    return value


def canonical(arguments: Arguments) -> str:
    """One text per JSON value: keys sorted, no white space, Unicode as it is, 1 and 1.0 apart.

    Raises BadArguments for what JSON cannot say (NaN, infinity, a lone surrogate, a foreign type).
    """
    try:
        text = json.dumps(arguments, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadArguments(f"the arguments are not JSON ({error}); send one JSON object") from error
    return text


def call_key(tool: str, arguments: Arguments, inert: Collection[str] = ()) -> str:
    """The key under which results are matched: the tool and its arguments without the inert ones."""
    vital = {name: value for name, value in arguments.items() if name not in inert} if inert else arguments
    return hashlib.blake2b(f"{tool}\0{canonical(vital)}".encode(), digest_size=16).hexdigest()


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _json_type(value: object) -> str:
    names = {list: "array", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")
