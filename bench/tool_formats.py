"""Tool calls as models write them, in the formats of SGLang's detectors."""

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {"path": {"type": "string"}, "n": {"type": "integer"}, "more": {"type": "object"}},
                "required": ["path"],
            },
        },
    }
    for name in ("read", "write_file", "z")
]


class Call(NamedTuple):
    """A call a model makes."""

    tool: str
    arguments: dict[str, Any]


class Format(NamedTuple):
    """How calls are written.

    `parser` is the server's --tool-call-parser, `choice` the request's tool_choice. `render` gives the texts of the
    calls, each up to the end of its arguments, and what is left after the last one.
    """

    parser: str
    render: Callable[[Sequence[Call]], list[str]]
    choice: str = "auto"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _framed(start: str, before: str, after: str, between: str, end: str) -> Any:
    """Calls whose arguments are a JSON object, in a frame; `before` may name the {tool}."""

    def render(calls: Sequence[Call]) -> list[str]:
        opening = [before.replace("{tool}", call.tool) + _json(call.arguments) for call in calls]
        joined = [f"{after}{between}{text}" if number else start + text for number, text in enumerate(opening)]
        return [*joined, after + end]

    return render


def _parameter(name: str, value: Any) -> str:
    return f"<parameter={name}>\n{value if isinstance(value, str) else _json(value)}\n</parameter>\n"


def _qwen3_coder(calls: Sequence[Call]) -> list[str]:
    end = "\n</tool_call>"
    texts = [
        f"<tool_call>\n<function={tool}>\n{''.join(_parameter(*item) for item in arguments.items())}</function>"
        for tool, arguments in calls
    ]
    return [texts[0], *(f"{end}\n{text}" for text in texts[1:]), end]


def _pythonic(calls: Sequence[Call]) -> list[str]:
    texts = [f"{tool}({', '.join(f'{name}={value!r}' for name, value in items.items())})" for tool, items in calls]
    return [f"[{texts[0]}", *(f", {text}" for text in texts[1:]), "]"]


_OBJECT = '{"name": "{tool}", "arguments": '
_HARMONY = "<|start|>assistant<|channel|>commentary to=functions.{tool} <|constrain|>json<|message|>"
_DEEPSEEK = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{tool}\n```json\n"

FORMATS = {
    "hermes": Format("hermes", _framed("", f"<tool_call>{_OBJECT}", "}</tool_call>", "\n", "")),
    "qwen25": Format("qwen25", _framed("", f"<tool_call>\n{_OBJECT}", "}\n</tool_call>", "\n", "")),
    "qwen3_coder": Format("qwen3_coder", _qwen3_coder),
    "llama3": Format("llama3", _framed("<|python_tag|>", _OBJECT, "}", ";", "")),
    "mistral": Format("mistral", _framed("[TOOL_CALLS] [", _OBJECT, "}", ", ", "]")),
    "mistral-compact": Format("mistral", _framed("", "[TOOL_CALLS]{tool}[ARGS]", "", "", "")),
    "deepseekv3": Format(
        "deepseekv3",
        _framed("<｜tool▁calls▁begin｜>", _DEEPSEEK, "\n```<｜tool▁call▁end｜>", "\n", "<｜tool▁calls▁end｜>"),
    ),
    "pythonic": Format("pythonic", _pythonic),
    "gpt-oss": Format("gpt-oss", _framed("", _HARMONY, "<|call|>", "", "")),
    "plain": Format("pythonic", _framed("[", '{"name": "{tool}", "parameters": ', "}", ", ", "]"), "required"),
}
