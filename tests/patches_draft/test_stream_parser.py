"""Several calls in one delta lose nothing, in any format, however many tokens a delta has."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from bench.tool_formats import FORMATS, TOOLS, Call, Format

pytestmark = pytest.mark.host

CALLS = [
    Call("read", {"path": "a/b.py"}),
    Call("write_file", {"path": "a < b > c", "n": 3, "more": {"x": [1, "two"]}}),
    Call("read", {"path": "größer 日本"}),
]
# SGLang's own parser finds one of several calls in this one, token by token as well.
LOST_IN_ANY_CASE = "mistral"
NAMES = [name for name in FORMATS if name != LOST_IN_ANY_CASE and FORMATS[name].choice == "auto"]
TOKENS = re.compile(r"<[^<>\s]+>|\[[A-Z_]+\]|\s?\w{1,4}|.", re.DOTALL)


def read(form: Format, deltas: list[str], parse: Callable[[Any, str], tuple[str, list[Any]]]) -> list[Call] | None:
    """The calls that a client puts together from a stream; None where it cannot."""
    from sglang.srt.entrypoints.openai.protocol import Tool
    from sglang.srt.function_call.function_call_parser import FunctionCallParser

    parser = FunctionCallParser([Tool(**tool) for tool in TOOLS], form.parser)
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    items = [item for delta in deltas for item in parse(parser, delta)[1]]
    for item in [*items, *parser.parse_stream_end()[1]]:
        if item.name:
            names[item.tool_index] = item.name
        arguments[item.tool_index] = arguments.get(item.tool_index, "") + (item.parameters or "")
    try:
        return [Call(names[index], json.loads(arguments[index])) for index in sorted(names)]
    except (KeyError, ValueError):
        return None


def deltas_of(text: str, count: int) -> list[str]:
    """A text in deltas of so many tokens."""
    tokens = TOKENS.findall(text)
    return ["".join(tokens[first : first + count]) for first in range(0, len(tokens), count)]


def ours(parser: Any, delta: str) -> tuple[str, list[Any]]:
    from sglang.srt.function_call.function_call_parser import FunctionCallParser

    from sglang_paste.patches.stream_parser import parsed

    return parsed(FunctionCallParser.parse_stream_chunk, parser, delta)


@pytest.mark.parametrize("count", [1, 2, 5, 12, 1000])
@pytest.mark.parametrize("name", NAMES)
def test_no_argument_is_lost(name: str, count: int) -> None:
    form = FORMATS[name]
    assert read(form, deltas_of("".join(form.render(CALLS)), count), ours) == CALLS


def test_the_test_tells_it_from_what_sglang_does() -> None:
    from sglang.srt.function_call.function_call_parser import FunctionCallParser

    losing = [
        name
        for name in NAMES
        if read(FORMATS[name], ["".join(FORMATS[name].render(CALLS))], FunctionCallParser.parse_stream_chunk) != CALLS
    ]
    assert "hermes" in losing
    assert "qwen25" in losing


def test_text_beside_calls_is_what_it_was() -> None:
    from sglang.srt.entrypoints.openai.protocol import Tool
    from sglang.srt.function_call.function_call_parser import FunctionCallParser

    parser = FunctionCallParser([Tool(**tool) for tool in TOOLS], "hermes")
    text = "First, 1 < 2 and [A] holds.\n日本 🙂 "
    said = ours(parser, text)[0] + ours(parser, "<tool_call>")[0]
    assert said == text
