"""How a model writes its calls is learned from one, or it is said that it cannot be."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.tool_formats import FORMATS, Call
from sglang_paste.draft.render import STYLES, Frame, Style, learn

values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
arguments = st.dictionaries(st.text(max_size=6), values, max_size=4)
names = st.sampled_from(["read", "call", "name", "arguments", "tool_call"])
JSON_FORMATS = ["hermes", "qwen25", "llama3", "mistral", "mistral-compact", "deepseekv3", "gpt-oss"]


def disagreement(tool: str, value: dict[str, Any], style: Style, learner: Any = learn) -> str | None:
    """Why what is learned from a call does not write it again."""
    frame = Frame('<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>", style)
    text = frame.write(tool, value)
    found = learner(text, tool, value)
    if found is None:
        return "nothing learned"
    return None if found.write(tool, value) == text else "another text"


@given(names, arguments, st.sampled_from(STYLES))
def test_what_is_learned_writes_the_same_text_again(tool: str, value: dict[str, Any], style: Style) -> None:
    assert disagreement(tool, value, style) is None


def test_a_learner_that_knows_one_style_only_is_caught() -> None:
    def one_style(text: str, tool: str, value: dict[str, Any]) -> Frame | None:
        found = learn(text, tool, value)
        return found and found._replace(style=Style())

    assert disagreement("read", {"a": 1}, Style(",", ":"), one_style) == "another text"


@pytest.mark.parametrize("form", JSON_FORMATS)
def test_of_every_format_with_json_one_call_teaches_the_others(form: str) -> None:
    first, second = Call("read", {"path": "a é", "n": 1}), Call("z", {"more": {"k": [1, "}"]}, "path": ""})
    render = FORMATS[form].render
    frame = learn("".join(render([first])), *first)
    assert frame is not None
    assert frame.write(*second) == "".join(render([second]))


@pytest.mark.parametrize("form", ["pythonic", "qwen3_coder"])
def test_a_format_without_json_is_not_learned(form: str) -> None:
    call = Call("read", {"path": "a"})
    assert learn("".join(FORMATS[form].render([call])), *call) is None


@pytest.mark.parametrize("text", ["", "read", '{"name": "read"', '{"name": "read", "arguments": {"path": "b"}}'])
def test_another_text_teaches_nothing(text: str) -> None:
    assert learn(text, "read", {"path": "a"}) is None
