"""The tokenizer and the chat template that the converter writes."""

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import hypothesis.strategies as st
import jinja2.sandbox
import pytest
import regex
from hypothesis import assume, example, given, settings
from tiny_gguf import TOKENS
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

from sglang_paste.patches.cpu.convert import _TEMPLATE, Gguf, build_tokenizer, packaged_gguf

ANY = st.characters(exclude_categories=["Cs"])
TEXT = st.text(ANY, max_size=60) | st.text("the 12\n's é漢🎉<|im_end|>", max_size=30)
ROLES = st.sampled_from(["user", "assistant", "system"])
MESSAGES = st.lists(st.fixed_dictionaries({"role": ROLES, "content": TEXT}), max_size=5)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
CALLS = st.lists(
    st.fixed_dictionaries(
        {
            "function": st.fixed_dictionaries(
                {
                    "name": st.sampled_from(["read_file", "grep"]),
                    "arguments": st.dictionaries(st.text(), JSON, max_size=3),
                }
            )
        }
    ),
    min_size=1,
    max_size=3,
)
TOOLS = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("read_file", "grep")]


@pytest.fixture(scope="module")
def source() -> Gguf:
    return Gguf(packaged_gguf())


@pytest.fixture(scope="module")
def tokenizer(source: Gguf) -> Tokenizer:
    return build_tokenizer(source)


class Statement:
    """Byte-level BPE by its definition: split, then merge the pair of the lowest rank until none is left."""

    _DIGITS = regex.compile(r"\p{N}|[^\p{N}]+")
    _WORDS = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")

    def __init__(self, source: Gguf) -> None:
        self.numbers = {token: number for number, token in enumerate(source.field("tokenizer.ggml.tokens"))}
        self.ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(source.field("tokenizer.ggml.merges"))}
        types = source.field("tokenizer.ggml.token_type")
        special = [token for token, kind in zip(self.numbers, types, strict=True) if kind == 3]
        self.special = regex.compile("(" + "|".join(map(regex.escape, special)) + ")")
        plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
        rest = [byte for byte in range(256) if byte not in plain]
        self.bytes = {byte: chr(byte) for byte in plain} | {byte: chr(256 + at) for at, byte in enumerate(rest)}

    def encode(self, text: str) -> list[int]:
        return [number for piece in self.special.split(text) for number in self._piece(piece)]

    def _piece(self, piece: str) -> Iterator[int]:
        if self.special.fullmatch(piece):
            yield self.numbers[piece]
            return
        for run in self._DIGITS.findall(piece):
            for word in self._WORDS.findall(run):
                yield from self._merged([self.bytes[byte] for byte in word.encode()])

    def _merged(self, parts: list[str]) -> list[int]:
        while pairs := [pair for pair in pairwise(parts) if pair in self.ranks]:
            best, at, merged = min(pairs, key=self.ranks.__getitem__), 0, []
            while at < len(parts):
                step = 2 if tuple(parts[at : at + 2]) == best else 1
                merged.append("".join(parts[at : at + step]))
                at += step
            parts = merged
        # the vocabulary lacks some bytes of rare planes, and these are left out
        return [self.numbers[part] for part in parts if part in self.numbers]


@pytest.fixture(scope="module")
def statement(source: Gguf) -> Statement:
    return Statement(source)


@settings(deadline=None)
@given(TEXT)
@example("In 2026, 1234567 cats; don't\n\n\t  stop <|im_start|>user\nx<|im_end|>\n")
def test_equals_the_definition(tokenizer: Tokenizer, statement: Statement, text: str) -> None:
    assert tokenizer.encode(text).ids == statement.encode(text)


@given(TEXT)
def test_text_comes_back(tokenizer: Tokenizer, statement: Statement, text: str) -> None:
    assume(all(statement.bytes[byte] in statement.numbers for byte in text.encode()))
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text


def test_numbers_are_split_into_digits(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("1234").tokens == ["1", "2", "3", "4"]


def test_control_tokens_are_whole_and_left_out_of_text(tokenizer: Tokenizer) -> None:
    encoded = tokenizer.encode("<|im_start|>user\nhi<|im_end|>")
    assert encoded.ids[0] == 1
    assert encoded.ids[-1] == 2
    assert tokenizer.decode(encoded.ids) == "user\nhi"


def test_the_alphabet_of_bytes_is_complete() -> None:
    assert len(ByteLevel.alphabet()) == 256
    assert set(ByteLevel.alphabet()) <= set(TOKENS)


def render(template: str, messages: list[Any], **values: Any) -> str:
    """As transformers renders it."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    return environment.from_string(template).render(messages=messages, **values)


def ours(messages: list[Any], **values: Any) -> str:
    return render(_TEMPLATE.read_text(), messages, **values)


@given(MESSAGES.filter(len), st.booleans())
def test_without_tools_it_is_the_models_own_template(source: Gguf, messages: list[Any], prompt: bool) -> None:
    theirs = render(source.field("tokenizer.chat_template"), messages, add_generation_prompt=prompt)
    assert ours(messages, add_generation_prompt=prompt) == theirs


@pytest.mark.host
@settings(deadline=None)
@given(CALLS, st.sampled_from(["", "Let me look."]))
def test_calls_are_what_the_hermes_parser_reads(calls: list[Any], content: str) -> None:
    from sglang.srt.entrypoints.openai.protocol import Tool
    from sglang.srt.function_call.hermes_detector import HermesDetector

    messages = [{"role": "user", "content": "go"}, {"role": "assistant", "content": content, "tool_calls": calls}]
    answer = ours(messages, tools=TOOLS).split("<|im_start|>assistant\n")[1].removesuffix("<|im_end|>\n")
    if any("tool_call>" in json.dumps(call) for call in calls):
        return
    found = HermesDetector().detect_and_parse(answer, [Tool(**tool) for tool in TOOLS])
    assert found.normal_text == content
    assert [(call.name, json.loads(call.parameters)) for call in found.calls] == [
        (call["function"]["name"], call["function"]["arguments"]) for call in calls
    ]


def test_a_call_is_written_as_a_strict_generation_writes_it() -> None:
    calls = [{"function": {"name": "grep", "arguments": {"pattern": "é"}}}]
    text = ours([{"role": "user", "content": "go"}, {"role": "assistant", "content": None, "tool_calls": calls}])
    assert (
        '<|im_start|>assistant\n<tool_call>{"name":"grep", "arguments":{"pattern": "é"}}</tool_call><|im_end|>' in text
    )


def test_results_of_parallel_calls_share_a_turn() -> None:
    results = [{"role": "tool", "content": "one"}, {"role": "tool", "content": ""}]
    text = ours([{"role": "user", "content": "go"}, *results, {"role": "user", "content": "more"}])
    assert text.endswith(
        "<|im_start|>user\n<tool_response>\none\n</tool_response>\n<tool_response>\n\n</tool_response><|im_end|>\n"
        "<|im_start|>user\nmore<|im_end|>\n"
    )


def test_tools_follow_the_system_message() -> None:
    text = ours([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "go"}], tools=TOOLS)
    assert text.startswith("<|im_start|>system\nBe brief.\n\n")
    assert text.count("<|im_start|>system") == 1
    assert all(json.dumps(tool) in text for tool in TOOLS)


@given(MESSAGES.filter(len), MESSAGES)
def test_a_conversation_only_grows(first: list[Any], more: list[Any]) -> None:
    assert ours(first + more, tools=TOOLS).startswith(ours(first, tools=TOOLS))
