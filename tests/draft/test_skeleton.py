"""A call's text without its values."""

from typing import Any

import pytest

from bench.tool_formats import FORMATS, Call
from sglang_paste.calls import Arguments
from sglang_paste.draft.render import Frame, Style
from sglang_paste.draft.skeleton import Blank, in_habit, pieces, shape_of

FRAME = Frame('<tool_call>{"name": "', '", "arguments": ', "}</tool_call>", Style())
SCHEMA = {
    "type": "object",
    "required": ["command", "shell"],
    "properties": {
        "timeout": {"type": "integer"},
        "command": {"type": "string"},
        "shell": {"enum": ["bash"]},
        "mode": {"enum": ["fast", "slow"]},
        "quiet": {"type": "boolean"},
    },
}


def test_a_new_tool_has_what_is_required_in_the_schemas_order() -> None:
    assert shape_of(SCHEMA) == {"command": Blank(True), "shell": "bash"}


def test_a_tool_that_requires_nothing_may_have_all() -> None:
    assert list(shape_of({"properties": {"a": {"type": "string"}, "b": {}}})) == ["a", "b"]


def test_a_known_tool_has_the_arguments_of_its_last_call() -> None:
    shape = shape_of(SCHEMA, [{"timeout": 5, "command": "ls"}, {"command": "pwd"}])
    assert shape == {"timeout": Blank(False), "command": Blank(True)}


def test_of_a_few_values_the_usual_one_is_expected() -> None:
    past: list[Arguments] = [{"mode": "slow", "quiet": True}, {"mode": "fast"}, {"mode": "fast", "quiet": True}]
    assert shape_of(SCHEMA, past) == {"mode": "fast", "quiet": True}


def test_an_argument_of_no_schema_is_as_it_was() -> None:
    assert shape_of(SCHEMA, [{"new": "x"}]) == {"new": Blank(True)}


@pytest.mark.parametrize("schema", [None, [], {}, {"properties": []}, {"properties": {}, "required": "all"}])
def test_a_strange_schema_gives_no_arguments(schema: Any) -> None:
    assert shape_of(schema) == {}


def test_the_text_is_cut_where_a_value_stands() -> None:
    shape = {"command": Blank(True), "timeout": Blank(False), "shell": "bash"}
    assert pieces(FRAME.write, "run", shape) == [
        '<tool_call>{"name": "run", "arguments": {"command": "',
        '", "timeout": ',
        ', "shell": "bash"}}</tool_call>',
    ]


def test_without_arguments_it_is_the_whole_call() -> None:
    assert pieces(FRAME.write, "now", {}) == ['<tool_call>{"name": "now", "arguments": {}}</tool_call>']


def test_a_format_of_markup_has_its_pieces_too() -> None:
    def write(tool: str, arguments: Arguments) -> str:
        return "".join(FORMATS["qwen3_coder"].render([Call(tool, arguments)]))

    assert pieces(write, "read", {"path": Blank(True), "n": Blank(False)}) == [
        "<tool_call>\n<function=read>\n<parameter=path>\n",
        "\n</parameter>\n<parameter=n>\n",
        "\n</parameter>\n</function>\n</tool_call>",
    ]


def test_nothing_is_known_of_a_format_that_nobody_can_write() -> None:
    assert pieces(lambda tool, arguments: None, "read", {"path": Blank(True)}) == []


def test_arguments_come_in_the_order_of_the_last_call() -> None:
    assert list(in_habit({"a": 1, "b": 2, "c": 3}, [{"c": 0, "d": 0, "a": 0}])) == ["c", "a", "b"]
    assert list(in_habit({"b": 1, "a": 2}, [])) == ["b", "a"]
