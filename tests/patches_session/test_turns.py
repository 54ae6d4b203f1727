"""The hooks of delta turns in SGLang's own tokenizer manager and APIs, with nothing behind them."""

import asyncio
import copy
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
from api_host import host

from bench.turns.host import delta_turns
from bench.turns.session import TOOLS, Session
from sglang_paste.patches import turns
from sglang_paste.patches.turn_past import Plain
from sglang_paste.patches.turns import Turns
from sglang_paste.session.delta import DeltaTokenizer, Prompt

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from sglang.srt.entrypoints.openai.protocol import ChatCompletionRequest, ResponsesRequest
    from sglang.srt.entrypoints.openai.serving_responses import OpenAIServingResponses
    from sglang.srt.managers.io_struct import GenerateReqInput

pytestmark = [pytest.mark.host, pytest.mark.filterwarnings("ignore:max_tokens is deprecated:DeprecationWarning")]


def session(tokens: int = 4_000) -> Session:
    made = Session(tokens)
    made.grow(tokens)
    return made


def chat(messages: list[Any], **fields: Any) -> Any:
    """What the chat API sends on for a request."""
    request = ChatCompletionRequest(model="m", messages=copy.deepcopy(messages), **{"tools": TOOLS, **fields})
    before = request.model_dump_json()
    adapted = host().chat._convert_to_internal_request(request)[0]
    assert request.model_copy(update={"skip_special_tokens": True}).model_dump_json() == before
    return adapted


def stock(messages: list[Any], **fields: Any) -> list[int]:
    with delta_turns(0):
        return list(chat(messages, **fields).input_ids)


def encode(text: str) -> list[int]:
    return list(host().manager.tokenizer.encode(text, add_special_tokens=False))


def answer(obj: Any, tokens: list[int], reason: str = "stop") -> None:
    """The engine's last output for a request, through the real handler."""
    manager = host().manager
    state = SimpleNamespace(obj=obj, output_ids=tokens[:1])
    manager.rid_to_state["r"] = state
    outputs = SimpleNamespace(rids=["r"], finished_reasons=[{"type": reason}], output_ids=[tokens[1:]])
    try:
        turns.answered(manager, outputs)
    finally:
        del manager.rid_to_state["r"]


def test_a_turn_costs_its_new_tokens(kept: Turns) -> None:
    talk = session()
    assert list(chat(talk.messages).input_ids) == stock(talk.messages)
    for _ in range(3):
        talk.turn()
        before = kept.counts.tokens["made"]
        prompt = chat(talk.messages).input_ids
        assert list(prompt) == stock(talk.messages)
        assert isinstance(prompt, Prompt)
        assert kept.counts.tokens["made"] - before < 2_000
    assert kept.counts.prompts == {"new": 1, "extended": 3}


def test_the_answer_stays_as_it_was_generated(kept: Turns) -> None:
    talk = [{"role": "user", "content": "Say it."}]
    adapted = chat(talk)
    said = [*encode("  hel"), *encode("lo"), *encode(" wor"), *encode("ld"), *encode("<|im_end|>")]
    assert said != encode("  hello world<|im_end|>")
    answer(adapted, said)
    talk += [{"role": "assistant", "content": "  hello world"}, {"role": "user", "content": "Again."}]
    following = list(chat(talk).input_ids)
    assert following[: len(adapted.input_ids) + len(said)] == [*adapted.input_ids, *said]
    tokenizer = host().manager.tokenizer
    assert tokenizer.decode(following) == tokenizer.decode(stock(talk))
    assert kept.counts.answers == {"kept": 1}


def test_an_answer_that_comes_back_otherwise_is_kept_up_to_there(kept: Turns) -> None:
    talk = [{"role": "user", "content": "Say it."}]
    adapted = chat(talk)
    said = [*encode("one tw"), *encode("o three"), *encode(" four  <|im_end|>")]
    answer(adapted, said)
    talk += [{"role": "assistant", "content": "one two three"}, {"role": "user", "content": "Again."}]
    following = list(chat(talk).input_ids)
    assert following[: len(adapted.input_ids) + 3] == [*adapted.input_ids, *said[:3]]
    tokenizer = host().manager.tokenizer
    assert tokenizer.decode(following) == tokenizer.decode(stock(talk))
    assert kept.counts.answers == {"kept_in_part": 1}


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_an_answer_that_was_cut_off_is_not_kept(kept: Turns, reason: str) -> None:
    talk = [{"role": "user", "content": "Say it."}]
    answer(chat(talk), [*encode("hel"), *encode("lo<|im_end|>")], reason)
    talk += [{"role": "assistant", "content": "hello"}, {"role": "user", "content": "Again."}]
    assert list(chat(talk).input_ids) == stock(talk)
    assert not kept.counts.answers


def test_the_past_may_change(kept: Turns) -> None:
    talk = session()
    chat(talk.messages)
    talk.messages[4] = {"role": "user", "content": "Stop. Look at the other file first."}
    assert list(chat(talk.messages).input_ids) == stock(talk.messages)
    assert kept.counts.prompts == {"new": 1, "branched": 1}
    del talk.messages[1:5]
    assert list(chat(talk.messages, tools=None).input_ids) == stock(talk.messages, tools=None)


def test_tenants_share_nothing(kept: Turns) -> None:
    talk = session()
    chat(talk.messages, cache_salt="one")
    chat(talk.messages, cache_salt="two")
    chat(talk.messages, cache_salt="one")
    assert kept.counts.prompts == {"new": 2, "repeated": 1}


@pytest.mark.parametrize(
    "fields", [{"n": 2}, {"continue_final_message": True, "add_generation_prompt": False}], ids=["n", "continue"]
)
def test_where_sglang_changes_the_prompt_it_gets_a_list(kept: Turns, fields: dict[str, Any]) -> None:
    talk = [*session().messages, {"role": "assistant", "content": "I think"}]
    given = {name: value for name, value in fields.items() if name in ChatCompletionRequest.model_fields}
    adapted = chat(talk, **given)
    assert type(adapted.input_ids) is list
    assert adapted.input_ids == stock(talk, **given)


def test_the_tokenize_api_is_left_alone(kept: Turns) -> None:
    request = ChatCompletionRequest(model="m", messages=session().messages)
    assert type(host().chat._process_messages(request, False).prompt_ids) is list
    assert not kept.counts.prompts


def test_a_failure_costs_nothing(kept: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: Any) -> None:
        raise RuntimeError("no")

    talk = session()
    chat(talk.messages)
    talk.turn()
    monkeypatch.setattr(DeltaTokenizer, "_join", fail)
    assert list(chat(talk.messages).input_ids) == stock(talk.messages)
    assert kept.counts.prompts["error"] == 1


def test_no_memory_no_turns() -> None:
    host()
    with delta_turns(0) as kept:
        assert type(chat(session().messages).input_ids) is list
    assert not kept.counts.values()


async def generate(text: Any, **fields: Any) -> tuple[Any, list[int]]:
    """A request to /generate, and the tokens that are sent for it."""
    manager = host().manager
    obj = GenerateReqInput(text=text, sampling_params={}, **fields)
    obj.normalize_batch_and_arguments()
    manager._init_req_state(obj)
    try:
        sent = await manager._tokenize_one_request(obj)
    finally:
        manager.rid_to_state.clear()
    assert obj.text == text
    return obj, list(sent.input_ids)


def test_generate(kept: Turns) -> None:
    async def run() -> None:
        obj, tokens = await generate("<|im_start|>user\nSay it.<|im_end|>\n<|im_start|>assistant\n")
        assert tokens == encode(obj.text)
        said = [*encode("hel"), *encode("lo"), *encode("<|im_end|>")]
        answer(obj, said)
        _, following = await generate(obj.text + "hello<|im_end|>\n<|im_start|>user\nAgain.")
        assert following == [*tokens, *said, *encode("\n<|im_start|>user\nAgain.")]

    asyncio.run(run())
    assert kept.counts.answers == {"kept": 1}


def test_responses(kept: Turns) -> None:
    serving = OpenAIServingResponses(host().manager, host().chat.template_manager)
    talk: list[Any] = [{"role": "user", "content": "Look at the file. " * 300}]

    def ask() -> list[int]:
        request = ResponsesRequest(model="m", input=copy.deepcopy(talk), cache_salt="one")
        made = asyncio.run(serving._make_request(request, None, host().manager.tokenizer))
        return list(made[2][0])

    first = ask()
    talk += [{"role": "assistant", "content": "It is empty."}, {"role": "user", "content": "And now?"}]
    following = ask()
    with delta_turns(0):
        assert following == ask()
    assert first[:-3] == following[: len(first) - 3]
    assert kept.counts.prompts == {"new": 1, "extended": 1}


def test_a_plain_message_copies_as_any_other() -> None:
    message = {
        "role": "tool",
        "content": [{"type": "text", "text": "é", "more": {"n": [1, 2.5, None, True]}}],
        "x": (1,),
    }
    twin = copy.deepcopy(Plain(message))
    assert twin == message
    assert type(twin) is dict
    twin["content"][0]["more"]["n"].append(3)
    assert message["content"][0]["more"]["n"] == [1, 2.5, None, True]  # type: ignore[index]
