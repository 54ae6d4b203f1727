"""A stream's text as its tool-call parser can bear it: SGLang's detectors see one call at a time, and lose arguments
when a delta of several tokens, as drafts bring them, reaches into the next one."""

import re
from collections.abc import Callable
from typing import Any, TypeAlias

# A marker stays whole, as the token it is; anything else comes in pieces no longer than tokens are.
_PIECES = re.compile(r"""<[^<>\s"'{}]{1,60}>|\[[A-Z_]{1,30}\]|[^<\[]{1,4}|.""", re.DOTALL)

Parsed: TypeAlias = "tuple[str, list[Any]]"


def parsed(original: Callable[..., Parsed], parser: Any, chunk_text: str) -> Parsed:
    """Around `FunctionCallParser.parse_stream_chunk`: the same text, in pieces."""
    pieces = _PIECES.findall(chunk_text)
    if len(pieces) < 2:
        return original(parser, chunk_text)
    texts, calls = list[str](), list[Any]()
    for piece in pieces:
        text, found = original(parser, piece)
        texts.append(text)
        calls += found
    return "".join(texts), calls
