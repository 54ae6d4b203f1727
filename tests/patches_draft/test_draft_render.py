"""A call in the server's own format: what its chat template writes, or what SGLang's grammars would have."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from boundary_host import own_tokenizer

from bench.tool_formats import FORMATS, Call
from sglang_paste.calls import Arguments

os.environ.setdefault("SGLANG_USE_CPU_ENGINE", "1")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from transformers import PreTrainedTokenizerFast

    from sglang_paste.patches import draft_render
    from sglang_paste.patches.draft_render import Renderer

pytestmark = pytest.mark.host

_START = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}{% for call in m.tool_calls or [] %}"
_END = "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
QWEN25 = (
    '<tool_call>\n{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}'
    "\n</tool_call>"
)
QWEN3_CODER = (
    "<tool_call>\n<function={{ call.function.name }}>\n{% for name, value in call.function.arguments.items() %}"
    "<parameter={{ name }}>\n{{ value if value is string else value | tojson }}\n</parameter>\n{% endfor %}"
    "</function>\n</tool_call>"
)
PYTHONIC = (
    "[{{ call.function.name }}({% for name, value in call.function.arguments.items() %}"
    "{{ ', ' if not loop.first else '' }}{{ name }}={{ value if value is not string else \"'\" + value + \"'\" }}"
    "{% endfor %})]"
)
THINKING = "<think>\n\n</think>\n\n" + QWEN25
CALL = Call("read", {"path": "a é", "n": 1})


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return own_tokenizer()


def template(call: str) -> str:
    return _START + call + _END


@pytest.mark.parametrize(
    ("parser", "call", "form"),
    [
        ("qwen25", QWEN25, "qwen25"),
        ("qwen25", THINKING, "qwen25"),
        ("qwen3_coder", QWEN3_CODER, "qwen3_coder"),
        ("pythonic", PYTHONIC, "pythonic"),
    ],
)
def test_a_call_is_written_as_the_template_does(tokenizer: Any, parser: str, call: str, form: str) -> None:
    written = Renderer(tokenizer, parser, template(call)).write(*CALL)
    assert written == "".join(FORMATS[form].render([CALL])) + "<|im_end|>"


def test_the_tokenizers_own_template_is_the_servers_without_another(tokenizer: Any) -> None:
    written = Renderer(tokenizer, "hermes", None).write(*CALL)
    assert written == '<tool_call>{"name":"read", "arguments":{"path": "a é", "n": 1}}</tool_call><|im_end|>'


def test_a_template_of_the_servers_is_read_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "own.jinja"
    file.write_text("\n{{ 'é' }}\n", encoding="utf-8")
    assert draft_render.template_of(str(file)) == "{{ 'é' }}"
    assert draft_render.template_of("chatml") is None
    assert draft_render.template_of(None) is None


@pytest.mark.parametrize("form", ["hermes", "qwen25", "llama3", "mistral", "deepseekv3"])
@pytest.mark.parametrize("silent", ["{{ messages[0].content }}", "{{ raise_exception('no') }}"])
def test_where_the_template_says_nothing_the_grammar_does(tokenizer: Any, form: str, silent: str) -> None:
    written = Renderer(tokenizer, form, silent).write(*CALL)
    assert written is not None
    assert _squeezed(written) == _squeezed("".join(FORMATS[form].render([CALL])))


def test_a_format_that_nothing_is_known_of_is_not_written(tokenizer: Any) -> None:
    assert Renderer(tokenizer, "pythonic", "{{ messages[0].content }}").write(*CALL) is None


def test_a_text_goes_on_without_a_space_of_the_tokenizers() -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    words = {"▁": 0, "{": 1, "▁{": 2, "\n": 3, "▁\n": 4, "a": 5}
    core = Tokenizer(models.BPE(words, [("▁", "{"), ("▁", "\n")]))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    core.decoder = decoders.Metaspace()
    renderer = Renderer(PreTrainedTokenizerFast(tokenizer_object=core), "hermes", None)
    assert renderer.encode("{a") == (1, 5)


def _squeezed(text: str) -> str:
    return "".join(text.split())


def test_a_template_that_is_no_frame_is_rendered_once_for_equal_calls(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    renderer = Renderer(tokenizer, "qwen3_coder", template(QWEN3_CODER))
    asked = _counted(tokenizer, monkeypatch)
    for _ in range(3):
        renderer.write(*CALL)
    assert len(asked) == 2


def _counted(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> list[Arguments]:
    asked: list[Any] = []
    original: Callable[..., Any] = tokenizer.apply_chat_template

    def apply(messages: list[Any], **kwargs: Any) -> Any:
        asked.append(messages)
        return original(messages, **kwargs)

    monkeypatch.setattr(tokenizer, "apply_chat_template", apply)
    return asked
