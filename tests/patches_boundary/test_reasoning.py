"""Calls that are thought of are none, exactly where the API takes them for none."""

import pytest
from boundary_host import Kept, api_calls, decode, detector, encode, play, turn
from sglang.srt.parser.reasoning_parser import ReasoningParser

from bench.tool_formats import FORMATS, Call
from sglang_paste.events import CallOpened, CallReady
from sglang_paste.patches.detector import Reasoning

pytestmark = pytest.mark.host

CALL = "".join(FORMATS["hermes"].render([Call("read", {"path": "a"})]))
OTHER = "".join(FORMATS["hermes"].render([Call("z", {"path": "b"})]))


def said(text: str, *, force: bool, stream: bool = False, parser: str = "qwen3", form: str = "hermes") -> Kept:
    kept = Kept()
    reasoning = Reasoning(parser, force=force, stream=stream, tokenizer=None)
    play(turn(FORMATS[form], kept, reasoning=reasoning), text, [1])
    return kept


@pytest.mark.parametrize(
    ("text", "force"),
    [
        (f"<think>Perhaps {OTHER}?</think>\n\n{CALL}", False),
        (f"Perhaps {OTHER}?</think>{CALL}", True),
        (f"<think>\nNo.\n</think>\n{CALL}", True),
        (CALL, False),
    ],
)
def test_only_what_follows_the_thought_counts(text: str, force: bool) -> None:
    kept = said(text, force=force)
    assert [event.tool for event in kept.of(CallReady)] == ["read"]
    assert kept.of(CallOpened)[0].index == 0
    rest = Reasoning("qwen3", force=force, stream=False, tokenizer=None)._parse(text)
    assert [call.name for call in api_calls(FORMATS["hermes"], rest)] == ["read"]


def streamed(text: str, parser: str, *, force: bool) -> str:
    """What SGLang's streaming reasoning parser leaves to the tool-call parser."""
    host = ReasoningParser(parser, stream_reasoning=True, force_reasoning=force, tool_call_parser_active=True)
    rest = "".join(host.parse_stream_chunk(decode([token]))[1] or "" for token in encode(text))
    return rest + (host.parse_stream_end()[1] or "")


@pytest.mark.parametrize("parser", ["qwen3", "deepseek-r1", "deepseek-v3", "glm45"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("text", [f"<think>Perhaps {OTHER}?", f"<think>Perhaps\n{OTHER}</think>{CALL}", "<think>No."])
def test_calls_in_a_thought_are_those_of_the_api(parser: str, stream: bool, text: str) -> None:
    kept = said(text, force=True, stream=stream, parser=parser)
    whole = Reasoning(parser, force=True, stream=stream, tokenizer=None)._parse(text)
    rest = streamed(text, parser, force=True) if stream else whole
    assert [event.tool for event in kept.of(CallReady)] == [call.name for call in api_calls(FORMATS["hermes"], rest)]


def test_harmony_is_split_by_its_channels() -> None:
    form = FORMATS["gpt-oss"]
    text = "<|channel|>analysis<|message|>I need a file.<|end|>" + "".join(form.render([Call("read", {"path": "a"})]))
    kept = said(text, force=True, parser="gpt-oss", form="gpt-oss")
    rest = Reasoning("gpt-oss", force=True, stream=False, tokenizer=None).visible(text)
    assert [event.tool for event in kept.of(CallReady)] == [call.name for call in api_calls(form, rest)]


def test_every_parser_of_sglang_has_a_shape() -> None:
    from sglang.srt.function_call.function_call_parser import FunctionCallParser

    from sglang_paste.patches.detector import shape_of

    odd = []
    for name, kind in FunctionCallParser.ToolCallParserEnum.items():
        try:
            host = kind()
        except (TypeError, ValueError):
            odd.append(name)
            continue
        assert shape_of(name, host).style in ("json", "python", "markup", "opaque")
    assert detector(FORMATS["plain"]).shape.repeats is False
    assert len(odd) < 6
