"""How a server's model writes a call, learned from one that it wrote."""

import json
import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from sglang_paste.calls import Arguments

MAX_SAMPLE_CHARS = 65_536
MAX_OBJECTS = 8

# The text of a call as the model would write it, None where nobody knows how.
Write = Callable[[str, Arguments], str | None]


class Style(NamedTuple):
    """How JSON is laid out."""

    comma: str = ", "
    colon: str = ": "
    ascii: bool = False
    indent: int | None = None

    def dumps(self, value: Any) -> str:
        """The value as text; raises ValueError for what JSON cannot say."""
        return json.dumps(
            value,
            separators=(self.comma, self.colon),
            ensure_ascii=self.ascii,
            indent=self.indent,
            allow_nan=False,
        )


_LAYOUTS = ((", ", ": ", None), (",", ":", None), (",", ": ", None), (",", ": ", 2), (",", ": ", 4))
STYLES = tuple(Style(comma, colon, escaped, indent) for escaped in (False, True) for comma, colon, indent in _LAYOUTS)


class Frame(NamedTuple):
    """A call in a format that holds its arguments as one JSON object behind its name: what stands around the two."""

    before: str
    between: str
    after: str
    style: Style

    def write(self, tool: str, arguments: Arguments) -> str:
        """The whole text; raises ValueError for what JSON cannot say."""
        return f"{self.before}{tool}{self.between}{self.style.dumps(arguments)}{self.after}"


def learn(text: str, tool: str, arguments: Arguments) -> Frame | None:
    """The frame in which `text` holds a call, None where it is another kind of format. What is learned writes the same
    text again for the same call."""
    for start, end, value in _objects(text[:MAX_SAMPLE_CHARS]):
        named = text.rfind(tool, 0, start)
        if named >= 0 and value == arguments:
            style = next((style for style in STYLES if style.dumps(value) == text[start:end]), None)
            return style and Frame(text[:named], text[named + len(tool) : start], text[end:], style)
    return None


def _objects(text: str) -> Iterator[tuple[int, int, Any]]:
    """The first JSON objects in a text, those within others too: from where, to where, and what."""
    decoder = json.JSONDecoder()
    for brace in islice(re.finditer(r"\{", text), MAX_OBJECTS):
        try:
            value, end = decoder.raw_decode(text, brace.start())
        except (ValueError, RecursionError):
            continue
        yield brace.start(), end, value
