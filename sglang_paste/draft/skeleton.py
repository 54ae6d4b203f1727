"""What is known of a call's text once its tool is: all but the values."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sglang_paste.calls import Arguments
from sglang_paste.draft.render import Write

MAX_KEYS = 16
# Values that stand for those not known; no tool's schema has them.
_TEXT = "zq7hole7qz"
_NUMBER = 7419038265917
_HOLES = re.compile(f"{_TEXT}|{_NUMBER}")


class Blank(NamedTuple):
    """An argument whose value is open; a text stands in quotes where the format has them."""

    is_text: bool


Shape = Mapping[str, Any]  # each argument's value or a Blank, in the order in which they are written


def shape_of(schema: Any, past: Sequence[Arguments] = ()) -> dict[str, Any]:
    """What a tool's next call looks like by its JSON schema and its `past` calls, the newest first.

    It has the arguments of the newest call, or else those that are required, or else all, in their order. Where few
    values can be, the one that was most frequent is expected, and the one that is alone is certain.
    """
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    if not isinstance(properties, Mapping):
        return {}
    required = schema.get("required")
    needed = [name for name in properties if isinstance(required, list) and name in required]
    names = [name for name in (past[0] if past else needed or properties) if isinstance(name, str)]
    return {
        name: _value(properties.get(name), [call[name] for call in past if name in call]) for name in names[:MAX_KEYS]
    }


def in_habit(arguments: Arguments, past: Sequence[Arguments]) -> Arguments:
    """The same arguments in the order in which the newest call has them."""
    known = [name for name in (past[0] if past else ()) if name in arguments]
    return {name: arguments[name] for name in dict.fromkeys((*known, *arguments))}


def pieces(write: Write, tool: str, shape: Shape) -> list[str]:
    """The texts between the values that are open, in order."""
    arguments: Arguments = {
        name: (_TEXT if value.is_text else _NUMBER) if isinstance(value, Blank) else value
        for name, value in shape.items()
    }
    text = write(tool, arguments)
    return [piece for piece in _HOLES.split(text) if piece] if text else []


def _value(schema: Any, seen: Sequence[Any]) -> Any:
    if not isinstance(schema, Mapping):
        return Blank(bool(seen) and isinstance(seen[0], str))
    if "const" in schema:
        return schema["const"]
    choices = schema.get("enum", [False, True] if schema.get("type") == "boolean" else ())
    if isinstance(choices, list) and choices:
        usual = Counter(place for value in seen if (place := _place(choices, value)) is not None).most_common(1)
        if usual or len(choices) == 1:
            return choices[usual[0][0] if usual else 0]
    return Blank(schema.get("type") == "string" or (bool(choices) and all(isinstance(item, str) for item in choices)))


def _place(choices: Sequence[Any], value: Any) -> int | None:
    return next((at for at, item in enumerate(choices) if type(item) is type(value) and item == value), None)
