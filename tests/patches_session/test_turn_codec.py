"""Delta tokenising with tokenizers of the kinds that models have."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from turn_cases import Conversation, trimmed

os.environ.setdefault("SGLANG_USE_CPU_ENGINE", "1")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    from sglang_paste.patches.turn_codec import codec_of

pytestmark = pytest.mark.host

MODEL = Path(__file__).parents[2] / ".cache" / "models" / "smollm2-135m"
CORPUS = ['a ab abc  abc\n\nb c é了🙂 {"a":1} <|e| |> user assistant system tool tools go </t>\n'] * 4
SEEDS = st.integers(0, 1 << 30)


def train(core: Tokenizer, **special: Any) -> Any:
    """A small tokenizer of the core's kind, with added tokens of which one lies in another."""
    tokens = [AddedToken(text, normalized=False, special=True, **special) for text in ("<|s|>", "<|e|>", "<t>")]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=tokens, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    core.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<t>", clean_up_tokenization_spaces=False)


def byte_level(normalizer: Any = None, **special: Any) -> Any:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    if normalizer is not None:
        core.normalizer = normalizer
    return train(core, **special)


def with_beginning() -> Any:
    tokenizer = byte_level()
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="<t> $A", special_tokens=[("<t>", tokenizer.convert_tokens_to_ids("<t>"))]
    )
    return tokenizer


def with_end() -> Any:
    tokenizer = byte_level()
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <t>", special_tokens=[("<t>", tokenizer.convert_tokens_to_ids("<t>"))]
    )
    return tokenizer


def metaspace(scheme: str) -> Any:
    core = Tokenizer(models.BPE(byte_fallback=True, unk_token="<t>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return train(core)


KINDS: dict[str, Callable[[], Any]] = {
    "smollm2": lambda: AutoTokenizer.from_pretrained(MODEL),
    "byte level": byte_level,
    "normalised": lambda: byte_level(normalizers.NFC()),
    "greedy of space": lambda: byte_level(rstrip=True, lstrip=True),
    "with a beginning": with_beginning,
    "metaspace first": lambda: metaspace("first"),
    "metaspace always": lambda: metaspace("always"),
}
_made: dict[str, Any] = {}


def made(kind: str) -> Any:
    """The tokenizer of a kind, made once."""
    if kind not in _made:
        _made[kind] = KINDS[kind]()
    return _made[kind]


def conversation(kind: str, seed: int, *, answers: bool) -> Conversation:
    marks = ("<|im_start|>", "<|im_end|>") if kind == "smollm2" else ("<|s|>", "<|e|>")
    codec = codec_of(made(kind), lead=kind == "with a beginning")
    assert codec is not None
    return Conversation(codec, seed, answers=answers, marks=marks)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=SEEDS)
@settings(max_examples=40)
def test_tokens_are_those_of_the_whole_text(kind: str, seed: int) -> None:
    talk = conversation(kind, seed, answers=False)
    talk.decodes = kind in ("smollm2", "byte level", "with a beginning")
    talk.run(8)
    tokenizer = made(kind)
    for kept in talk.prompts.kept():
        text = kept.text.decode()
        whole = tokenizer(text)["input_ids"] if codec_of(tokenizer, lead=True) else None
        bare = tokenizer.encode(text, add_special_tokens=False)
        assert list(kept.tokens) == (whole if kind == "with a beginning" else bare)


@pytest.mark.parametrize("kind", ["smollm2", "byte level", "with a beginning"])
@given(seed=SEEDS)
@settings(max_examples=40)
def test_answers_stay_as_the_model_made_them(kind: str, seed: int) -> None:
    talk = conversation(kind, seed, answers=True)
    talk.run(8)


@pytest.mark.parametrize("kind", ["smollm2", "byte level"])
def test_prompts_are_extended(kind: str) -> None:
    talk = conversation(kind, 7, answers=True)
    talk.render = trimmed
    talk.run(40)
    assert talk.counts.prompts["extended"] > 20
    assert talk.counts.answers["kept"] > 10
    assert talk.counts.answers["kept_in_part"] > 0
    assert not {"error", "unmarked"} & set(talk.counts.prompts)


def test_a_tokenizer_that_ends_prompts_is_left_alone() -> None:
    assert codec_of(with_end(), lead=True) is None
    assert codec_of(with_end(), lead=False) is not None


def test_a_tokenizer_that_cuts_is_left_alone() -> None:
    tokenizer = byte_level()
    tokenizer._tokenizer.enable_truncation(8)
    assert codec_of(tokenizer, lead=False) is None
