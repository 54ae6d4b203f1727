"""SGLang's own tool-call detectors, seen through the eyes of `boundary`."""

import ast
import json
import logging
import re
from collections.abc import Callable
from typing import Any

import orjson
from sglang.srt.entrypoints.openai.protocol import Tool, ToolChoice
from sglang.srt.function_call.function_call_parser import FunctionCallParser
from sglang.srt.function_call.pythonic_detector import PythonicDetector
from sglang.srt.function_call.utils import safe_ast_parse
from sglang.srt.parser.reasoning_parser import ReasoningParser

from sglang_paste.boundary import FoundCall, Shape
from sglang_paste.boundary.shape import json_shape, opaque_shape

PLAIN_JSON = json_shape(r"\A(?=\s*[\[{])", "}]", repeats=False)

_KNOWN: dict[str, Shape] = {
    "gpt-oss": json_shape(re.escape("<|channel|>commentary to="), "<|call|>"),
    "pythonic": Shape(
        style="python",
        opening=re.compile(r"(?=(\[\s*[a-zA-Z]\w*\())"),
        repeats=False,
        opened=")]",
        named=(")]",),
        likely=(")]",),
        ready=("]", ""),
    ),
    "qwen3_coder": Shape(
        style="markup",
        opening=re.compile("<function="),
        named=("\n</function>\n</tool_call>",),
        likely=("\n</function>\n</tool_call>",),
        ready=("", "\n</tool_call>"),
        after_value=("</parameter>",),
        after_call=("</function>", "</tool_call>"),
    ),
}
# Formats whose calls share one opening, or that have another one than their detector's `bot_token`.
_OPENINGS: dict[str, tuple[str, bool]] = {
    "llama3": (r"<\|python_tag\|>|\A(?=\{)", False),
    "mistral": (re.escape("[TOOL_CALLS]"), False),
    "deepseekv3": (re.escape("<｜tool▁call▁begin｜>"), True),
}
_VARIANTS: dict[str, tuple[str, ...]] = {"mistral": ("",)}


def quiet() -> None:
    """In the scheduler a detector is asked about texts that stop in the middle, which is nothing to log."""
    logging.getLogger("sglang.srt.function_call").setLevel(logging.CRITICAL)


def shape_of(parser: str, detector: Any) -> Shape:
    """What is known of the format of `--tool-call-parser`; of most of them by asking SGLang's detector."""
    if parser in _KNOWN:
        return _KNOWN[parser]
    bot, eot = detector.bot_token, detector.eot_token
    opening, repeats = _OPENINGS.get(parser, (re.escape(bot) if bot else r"\A", True))
    try:
        end = detector.structure_info()("name").end
    except Exception:
        return opaque_shape(opening, eot)
    if not end.lstrip().startswith("}") and "```" not in end:
        return opaque_shape(opening, eot)
    return json_shape(opening, end, repeats=repeats, also=_VARIANTS.get(parser, ()))


class ApiDetector:
    """What the API would make of an output: reasoning first, then calls in the native format or as plain JSON."""

    def __init__(
        self, tools: list[Tool], parser: str, choice: Any, tokenizer: Any, reasoning: "Reasoning | None" = None
    ) -> None:
        if isinstance(choice, dict):
            choice = ToolChoice.model_validate(choice)
        host = FunctionCallParser(tools, parser, tokenizer=tokenizer, tool_choice=choice)
        forced = choice == "required" or isinstance(choice, ToolChoice)
        self._plain = forced and not host.owns_tool_format()
        self._tools = tools
        self._fresh = _maker(host.detector)
        self._reasoning = reasoning
        self.shape = PLAIN_JSON if self._plain else shape_of(parser, host.detector)

    def answer_start(self, text: str, *, whole: bool) -> int:
        return self._reasoning.answer_start(text, whole=whole) if self._reasoning else 0

    def opened(self, text: str) -> bool:
        if self._plain:
            return True
        return bool(self._fresh().has_tool_call(self._visible(text)))

    def calls(self, text: str) -> list[FoundCall]:
        text = self._visible(text)
        if self._plain:
            return _plain_calls(text)
        detector = self._fresh()
        found = detector.detect_and_parse(text, self._tools).calls
        # The pythonic detector has looked for the same thing to get here.
        if not found or not (self.shape.style == "python" or detector.has_tool_call(text)):
            return []
        return [FoundCall(call.name, call.parameters) for call in found]

    def _visible(self, text: str) -> str:
        return self._reasoning.visible(text) if self._reasoning else text


class Reasoning:
    """SGLang's reasoning parser for one request."""

    def __init__(self, parser: str, *, force: bool, stream: bool, tokenizer: Any) -> None:
        host = ReasoningParser(
            parser, stream_reasoning=False, force_reasoning=force, tokenizer=tokenizer, tool_call_parser_active=True
        )
        self._detector = host.detector
        # A call may cut a thought short; unless streaming, it counts only if the thought never ends.
        self._ends = [host.detector.think_end_token, *([host.detector.tool_start_token] if stream else [])]
        self._parser, self._force, self._tokenizer = parser, force, tokenizer
        # Where the answer is no suffix of the output, it has to be taken out again each time.
        self._inline = parser == "gpt-oss"

    def answer_start(self, text: str, *, whole: bool) -> int:
        """See `boundary.Detector`."""
        if self._inline:
            return 0
        begun = self._detector._in_reasoning or self._detector.think_start_token in text
        if begun and not whole and not any(end and end in text for end in self._ends):
            return -1
        rest = self._parse(text)
        return len(text) - len(rest) if rest and text.endswith(rest) else -1

    def visible(self, text: str) -> str:
        """What the tool-call parser gets to see."""
        return self._parse(text) if self._inline else text

    def _parse(self, text: str) -> str:
        host = ReasoningParser(
            self._parser,
            stream_reasoning=False,
            force_reasoning=self._force,
            tokenizer=self._tokenizer,
            tool_call_parser_active=True,
        )
        return host.parse_non_stream(text)[1] or ""


def _plain_calls(text: str) -> list[FoundCall]:
    """What the chat API returns for a required call that is constrained to plain JSON."""
    try:
        data = orjson.loads(text)
    except orjson.JSONDecodeError:
        return []
    data = [data] if isinstance(data, dict) else data
    if not isinstance(data, list) or not all(isinstance(call, dict) and "name" in call for call in data):
        return []
    return [FoundCall(call["name"], json.dumps(call.get("parameters", {}), ensure_ascii=False)) for call in data]


class _Calls:
    """Stands in for the expression by which the pythonic detector finds its list of calls.

    The original backtracks: some hundred characters can take it seconds, which the scheduler does not have. This one
    looks for the outermost list and asks Python whether it holds calls with named arguments alone.
    """

    _list = re.compile(r"\[[a-zA-Z]+\w*\(.*\)\s*\]", re.DOTALL)
    _name = re.compile(r"[a-zA-Z]+\w*")

    def search(self, text: str) -> re.Match[str] | None:
        """The match the original would find, or None."""
        found = self._list.search(text)
        return found if found and self._holds_calls(found.group()) else None

    def _holds_calls(self, text: str) -> bool:
        try:
            items = getattr(safe_ast_parse(text).body[0], "value", None)
        except (SyntaxError, ValueError, MemoryError, RecursionError):
            return False
        return isinstance(items, ast.List) and all(self._is_call(item) for item in items.elts)

    def _is_call(self, node: ast.expr) -> bool:
        return (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and not node.args
            and all(self._name.fullmatch(name or "") for name in (node.func.id, *(key.arg for key in node.keywords)))
        )


def _pythonic() -> PythonicDetector:
    detector = PythonicDetector()
    detector.tool_call_regex = _Calls()
    return detector


def _maker(detector: Any) -> Callable[[], Any]:
    """Some detectors keep what they have seen, so that each question needs a new one."""
    kind = type(detector)
    if kind is PythonicDetector:
        return _pythonic
    try:
        kind()
    except (TypeError, ValueError):
        return lambda: detector
    return kind
