"""A server that drafts answers as it would without, whatever is asked of it; requests are retracted all the time.

A request's twin has a penalty too small to change a logit. Penalties are counted token by token, so for it nothing is
drafted: its steps are plain decode steps, as a server without drafts takes them.
"""

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from tiny_server import TinyServer, tiny_server

from bench.forced import FORCED_IDS
from bench.forced import PLUGIN as FORCED
from bench.forced.launch import environment
from bench.ports import free_port

pytestmark = [pytest.mark.host, pytest.mark.e2e, pytest.mark.timeout(300)]

DRAFTS = ("--speculative-algorithm", "NGRAM", "--speculative-num-draft-tokens", "16")
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "paths": {"type": "array", "items": {"enum": ["src/a.py", "src/b.py"]}, "minItems": 2, "maxItems": 4},
    },
    "required": ["name", "paths"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "function": {"name": name, "strict": True, "parameters": SCHEMA}} for name in ("look", "seek")
]
PROMPTS = [f"{number} one two three one two three one two" for number in range(8)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyServer]:
    folder = tmp_path_factory.mktemp("drafts")
    ours = ("--enable-tool-speculation", "--tool-state-dir", str(folder / "state"))
    retracting = {"SGLANG_TEST_RETRACT": "1", "SGLANG_TEST_RETRACT_INTERVAL": "13"}
    path = environment(folder, FORCED)["PYTHONPATH"]
    more = ("--attention-backend", "paste_cpu", "--enable-metrics", "--tool-gateway-port", str(free_port()))
    with tiny_server(folder / "log", *ours, *DRAFTS, *more, PYTHONPATH=path, **retracting) as server:
        yield server


def twin(params: dict[str, Any]) -> dict[str, Any]:
    return {**params, "frequency_penalty": 1e-9}


def ask(server: TinyServer, params: dict[str, Any], prompts: list[str] = PROMPTS, **more: Any) -> list[Any]:
    """Greedy answers to the prompts, asked for all at once."""

    def one(prompt: str) -> Any:
        body = {"text": prompt, "sampling_params": {"temperature": 0, "max_new_tokens": 40, **params}, **more}
        answer = httpx.post(f"{server.url}/generate", json=body, timeout=120)
        assert answer.status_code == 200, answer.text
        return answer.json()

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(one, prompts))


def ids(answers: list[Any]) -> list[list[int]]:
    return [answer["output_ids"] for answer in answers]


def drafted(answers: list[Any]) -> int:
    return sum(answer["meta_info"]["spec_num_correct_drafts"] for answer in answers)


def test_greedy_answers_are_those_of_plain_steps(server: TinyServer) -> None:
    answers, plain = ask(server, {}), ask(server, twin({}))
    assert ids(answers) == ids(plain)
    assert drafted(plain) == 0


def test_a_text_that_repeats_itself_comes_in_few_steps(server: TinyServer) -> None:
    phrase = [5, 900, 77, 4000, 31, 12, 8, 2500]
    params = {"custom_params": {FORCED_IDS: phrase * 6}, "max_new_tokens": 48, "ignore_eos": True}
    (answer,) = ask(server, params, PROMPTS[:1])
    assert answer["output_ids"] == phrase * 6
    meta = answer["meta_info"]
    assert meta["spec_verify_ct"] < 30
    assert meta["spec_num_correct_drafts"] == 48 - 1 - meta["spec_verify_ct"]
    assert meta["paste_accepted_drafts"] == {"history": meta["spec_num_correct_drafts"]}
    metrics = httpx.get(f"{server.url}/metrics").text
    assert 'paste_draft_accepted_tokens_total{source="history"}' in metrics


@pytest.mark.parametrize("kind", [{"json_schema": json.dumps(SCHEMA)}, {"regex": "(ab|cd){3,9}x"}])
def test_a_grammar_holds_with_short_matches_and_many_at_once(server: TinyServer, kind: dict[str, str]) -> None:
    params = {**kind, "max_new_tokens": 100}
    answers, plain = ask(server, params), ask(server, twin(params))
    assert ids(answers) == ids(plain)
    assert drafted(answers) > 0
    for answer in answers:
        if "json_schema" in kind and answer["meta_info"]["finish_reason"]["type"] == "stop":
            assert set(json.loads(answer["text"])) == {"name", "paths"}


def test_logprobs_are_those_of_plain_steps(server: TinyServer) -> None:
    asked = {"return_logprob": True, "top_logprobs_num": 2}
    for drafts, plain in zip(ask(server, {}, **asked), ask(server, twin({}), **asked), strict=True):
        own, others = drafts["meta_info"], plain["meta_info"]
        assert [token for _, token, _ in own["output_token_logprobs"]] == drafts["output_ids"]
        assert len(own["output_top_logprobs"]) == len(drafts["output_ids"])
        values = [value for value, _, _ in others["output_token_logprobs"]]
        assert [value for value, _, _ in own["output_token_logprobs"]] == pytest.approx(values, abs=1e-2)


def test_limits_and_stops_cut_where_they_do_without_drafts(server: TinyServer) -> None:
    (whole,) = ask(server, {}, PROMPTS[:1])
    stop = whole["text"][len(whole["text"]) // 2 :][:6]
    for params in (
        {"stop": [stop]},
        {"max_new_tokens": 17},
        {"min_new_tokens": 30},
        {"stop_token_ids": [whole["output_ids"][9]]},
    ):
        answers, plain = ask(server, params), ask(server, twin(params))
        assert [answer["text"] for answer in answers] == [answer["text"] for answer in plain]
        assert ids(answers) == ids(plain)
    assert whole["meta_info"]["completion_tokens"] <= 40


def test_several_answers_and_sampled_ones(server: TinyServer) -> None:
    several = ask(server, {"n": 3, "temperature": 0}, PROMPTS[:1])[0]
    assert len({tuple(answer["output_ids"]) for answer in several}) == 1
    sampled = ask(server, {"temperature": 1.5, "top_p": 0.9, "top_k": 50}, PROMPTS[:1] * 8)
    assert len({tuple(answer["output_ids"]) for answer in sampled}) == 8


def chat(server: TinyServer, **more: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "look at src/a.py and src/b.py, then seek src/a.py"}]
    body = {"model": "m", "messages": messages, "temperature": 0, "max_tokens": 120, "seed": 1}
    return {**body, "tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": True, **more}


def test_parallel_calls_are_the_same_streamed_and_whole(server: TinyServer) -> None:
    url = f"{server.url}/v1/chat/completions"
    message = httpx.post(url, json=chat(server), timeout=120).json()["choices"][0]["message"]
    whole = [(call["function"]["name"], call["function"]["arguments"]) for call in message["tool_calls"] or ()]
    names: dict[int, str] = {}
    arguments: dict[int, str] = {}
    with httpx.stream("POST", url, json=chat(server, stream=True), timeout=120) as stream:
        for line in stream.iter_lines():
            if not line.startswith("data: {"):
                continue
            for choice in json.loads(line[6:])["choices"]:
                for call in choice["delta"].get("tool_calls") or ():
                    names.setdefault(call["index"], call["function"].get("name") or "")
                    text = call["function"].get("arguments") or ""
                    arguments[call["index"]] = arguments.get(call["index"], "") + text
    streamed = [(names[index], json.loads(arguments[index])) for index in sorted(names) if _is_json(arguments[index])]
    assert streamed == [(name, json.loads(text)) for name, text in whole]


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def test_a_client_that_leaves_takes_nothing_with_it(server: TinyServer) -> None:
    body = {"text": PROMPTS[0], "sampling_params": {"temperature": 0, "max_new_tokens": 2000, "ignore_eos": True}}
    before = ids(ask(server, {}))
    with httpx.stream("POST", f"{server.url}/generate", json={**body, "stream": True}, timeout=120) as stream:
        next(stream.iter_lines())
    assert ids(ask(server, {})) == before
    assert os.path.exists(f"/proc/{server.process.pid}")
