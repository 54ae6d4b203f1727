"""Chat requests whose old messages are known: their prompts are those of SGLang alone."""

import copy
import random
import warnings
from typing import Any

import pytest
from api_host import host

from bench.turns.host import delta_turns
from bench.turns.session import TOOLS
from sglang_paste.patches import turn_past
from sglang_paste.patches.turn_past import Past, Pasts, Plain
from sglang_paste.patches.turns import Turns

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from sglang.srt.entrypoints.openai.protocol import ChatCompletionRequest

pytestmark = [pytest.mark.host, pytest.mark.filterwarnings("ignore:max_tokens is deprecated:DeprecationWarning")]

PARTS = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]


def text(messages: list[Any], tools: Any) -> str | None:
    """The prompt's text, or None where the request is refused."""
    request = ChatCompletionRequest(model="m", messages=copy.deepcopy(messages), tools=tools)
    try:
        adapted = host().chat._convert_to_internal_request(request)[0]
    except ValueError:
        return None
    return str(host().manager.tokenizer.decode(list(adapted.input_ids)))


def call(arguments: Any, number: int = 0) -> dict[str, Any]:
    function = {"name": "read_file", "arguments": arguments}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": f"c{number}", "function": function}]}


def any_message(draw: random.Random) -> dict[str, Any]:
    """All kinds there are, and arguments that equal each other but are written differently."""
    arguments = ['{"a": 1}', '{"a": true}', '{"a": 1.0}', {"a": 1}, {"a": True}, '{"b": 0, "a": 1}', "{", "", '"x"']
    return draw.choice(
        [
            {"role": "user", "content": draw.choice(["x", "é 🙂", "", PARTS])},
            {"role": "assistant", "content": draw.choice(["said", " said ", None, ""])},
            {"role": "assistant", "content": "said", "reasoning_content": draw.choice(["why", None])},
            call(draw.choice(arguments), draw.randrange(2)),
            {"role": "tool", "tool_call_id": "c0", "content": draw.choice(["result", PARTS, "<|im_end|>"])},
            {"role": "system", "content": draw.choice(["rules", PARTS])},
        ]
    )


@pytest.mark.parametrize("seed", range(8))
def test_any_conversation_has_the_text_it_has_without(kept: Turns, seed: int) -> None:
    draw = random.Random(seed)
    branches: list[list[Any]] = [[{"role": "user", "content": "x"}]]
    for _ in range(20):
        messages = copy.deepcopy(draw.choice(branches[-3:]))
        messages += [any_message(draw) for _ in range(draw.randrange(4))]
        if draw.random() < 0.4:
            messages[draw.randrange(len(messages))] = any_message(draw)
        tools = draw.choice([TOOLS, TOOLS, TOOLS, TOOLS[:1], None])
        found = text(messages, tools)
        with delta_turns(0):
            assert found == text(messages, tools)
        branches.append(messages)
    assert kept.counts.prompts["error"] == 0


def test_old_messages_are_neither_converted_nor_rendered_again(kept: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[Any] = [{"role": "user", "content": "x"}]
    made: list[Any] = []

    class Counted(Plain):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(self)

    monkeypatch.setattr(turn_past, "Plain", Counted)
    for number in range(6):
        text(messages, TOOLS)
        messages += [call('{"a": 1}', number), {"role": "tool", "tool_call_id": f"c{number}", "content": "result"}]
    assert len(made) == len(messages) - 2
    [past] = kept.pasts._pasts.values()
    assert past.rendering is not None
    assert past.rendering.resumed >= len(past.raw) - 4


def test_arguments_that_are_equal_but_written_differently_are_told_apart(kept: Turns) -> None:
    for arguments in ({"a": 1}, {"a": True}, {"a": 1.0}, {"a": 1, "b": 2}, {"b": 2, "a": 1}):
        messages = [{"role": "user", "content": "x"}, call(arguments), {"role": "user", "content": "y"}]
        found = text(messages, None)
        with delta_turns(0):
            assert found == text(messages, None)


def test_conversations_are_kept_within_a_bound_and_the_longest_unused_go_first() -> None:
    def past(number: int) -> Past:
        return Past([(int, {"number": number})], [], None, 10)

    pasts = Pasts(30)
    for number in range(3):
        pasts.add(number, past(number), None)
    assert pasts.find([0]) is not None
    pasts.add(3, past(3), None)
    assert [key for key in range(4) if pasts.find([key]) is not None] == [0, 2, 3]
    pasts.add(4, past(4), before=2)
    assert [key for key in range(5) if pasts.find([key]) is not None] == [0, 3, 4]
    pasts.add(5, past(5)._replace(size=31), None)
    assert len(pasts) == 0
    assert pasts.find([5, 9]) is None
