"""With drafts, answers are what they are without: a server with drafts beside stock SGLang, both with the real model.

What is compared is computed alike on both. Every request has a cache of its own: a prompt of which a part is cached is
prefilled in other pieces, whose last bits are others, on stock SGLang too. And stock doesn't overlap its schedule, as
SGLang does not where it speculates on a CPU: overlapped, it counts penalties a token late.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import httpx
import msgspec
import pytest
import torch

from bench.decode.__main__ import tokenizer
from bench.decode.lossless import bodies
from bench.decode.plugin import HINTS, Given
from bench.decode.server import Server, servers
from bench.forced import FORCED_IDS
from sglang_paste.draft.hints import Source
from sglang_paste.draft.offers import Offer

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

POOL, DRAFTS = 1100, 32
# Logits are of bfloat16, in which those of the likeliest tokens are multiples of 1/8 or 1/16.
TIE = 0.25
# With AVX2 a row of a batch has the bits that it has alone; elsewhere it may not, on stock SGLang either.
TIES = None if torch.backends.cpu.get_cpu_capability() == "AVX2" else TIE
SIDES = {
    "stock": ("--disable-overlap-schedule",),
    "ours": (
        *("--enable-tool-speculation", "--speculative-algorithm", "NGRAM"),
        *("--speculative-num-draft-tokens", str(DRAFTS), "--max-total-tokens", str(POOL)),
    ),
}
REPEATING = "one two three four five six seven one two three four five six"
GREETING = "Say hello.<|im_end|>\n<|im_start|>assistant\n"
LISTING = "src/main.py, src/util.py, tests/test_main.py; src/main.py, src/util.py,"
Answer = dict[str, Any]
caches = itertools.count()


class Pair(NamedTuple):
    """Both servers."""

    stock: Server
    ours: Server

    def ask(self, asked: Sequence[Answer], *, at_a_time: int = 1) -> tuple[list[Answer], list[Answer]]:
        """What each of them answers."""
        with ThreadPoolExecutor(1) as pool:
            stock = pool.submit(answers, self.stock, asked, at_a_time)
            ours = answers(self.ours, asked, at_a_time)
            return stock.result(), ours


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with servers(tmp_path_factory.mktemp("drafts"), SIDES) as (stock, ours):
        yield Pair(stock, ours)


def answers(server: Server, asked: Sequence[Answer], at_a_time: int) -> list[Answer]:
    def ask(body: Answer) -> Answer:
        own = {**body, "extra_key": str(next(caches)), "return_logprob": True, "top_logprobs_num": 2}
        found: Answer = httpx.post(f"{server.url}/generate", json=own, timeout=300).raise_for_status().json()
        return found

    with ThreadPoolExecutor(at_a_time) as pool:
        return list(pool.map(ask, asked))


def free(text: str, tokens: int, **params: Any) -> Answer:
    return {"text": text, "sampling_params": {"temperature": 0, "max_new_tokens": tokens, **params}}


def predicted(text: Sequence[int]) -> Offer:
    """A call that the predictor expects, with the tokens before it."""
    return Offer("", Source.PREDICTED, (tuple(text),))


def drafted(found: Sequence[Answer]) -> int:
    """How many of the tokens were drafts."""
    return sum(answer["meta_info"].get("spec_num_correct_drafts", 0) for answer in found)


@pytest.mark.parametrize(("at_a_time", "grammars"), [(1, 4), (8, 9)])
def test_greedy_answers_with_and_without_grammars(pair: Pair, at_a_time: int, grammars: int) -> None:
    repeating = [free(f"{number}. {REPEATING}", 16) for number in range(at_a_time)]
    stock, ours = pair.ask([*bodies(grammars, tokens=16, seed=at_a_time), *repeating], at_a_time=at_a_time)
    assert_same(stock, ours)
    assert drafted(ours) > 0
    with pytest.raises(AssertionError):
        assert_same(stock, ours[::-1])


def test_logprobs(pair: Pair) -> None:
    stock, ours = pair.ask([free(REPEATING, 24), free(LISTING, 24)], at_a_time=2)
    assert_same(stock, ours)
    assert drafted(ours) > 8
    for one, other in zip(stock, ours, strict=True):
        for kind in ("output_token_logprobs", "output_top_logprobs"):
            assert flat(other["meta_info"][kind]) == pytest.approx(flat(one["meta_info"][kind]), abs=1e-3)


KINDS = {
    "stop strings": free(REPEATING, 20, stop=[" seven six", " six six six", " seven seven seven"]),
    "stop tokens": free(LISTING, 20, stop_token_ids=[2, 28]),
    "a least number of tokens": free(GREETING, 24, min_new_tokens=16),
    "two answers": free(LISTING, 20, n=2),
    "the likeliest token": free(LISTING, 20, top_k=1, temperature=1.0),
    "a frequency penalty": free(REPEATING, 20, frequency_penalty=0.7),
    "a presence penalty": free(LISTING, 20, presence_penalty=0.7),
    "a repetition penalty": free(LISTING, 20, repetition_penalty=1.3),
    "a bias": free(LISTING, 20, logit_bias={"28": -4.0}),
}


def test_what_else_may_be_asked_for(pair: Pair) -> None:
    """All of it at once, so that requests of each kind go with those of others."""
    stock, ours = pair.ask(list(KINDS.values()), at_a_time=6)
    assert stock[0]["meta_info"]["finish_reason"]["type"] == "stop", stock[0]
    assert len(stock[2]["output_ids"]) >= 16
    for kind, one, other in zip(KINDS, stock, ours, strict=True):
        assert_same(flatly(one), flatly(other), what=kind)


def test_greedy_requests_among_sampled_ones(pair: Pair) -> None:
    """SGLang takes their likeliest token by sorting then, in which equal ones come in another order."""
    greedy = [free(REPEATING, 20), free(LISTING, 20)]
    sampled = [free(text, 20, temperature=1.0, top_p=0.9) for text in (REPEATING, LISTING)]
    stock, _ = pair.ask(greedy, at_a_time=2)
    assert_same(stock, answers(pair.ours, [*sampled, *greedy], 4)[2:], within=TIES or 0.0)


def test_a_request_that_is_aborted_leaves_the_others_as_they_are(pair: Pair) -> None:
    body = {**free(REPEATING, 600), "stream": True, "rid": "aborted"}
    with httpx.stream("POST", f"{pair.ours.url}/generate", json=body, timeout=300) as stream:
        lines = (json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: {"))
        next(lines)
        with ThreadPoolExecutor(1) as pool:
            beside = pool.submit(pair.ask, [free(LISTING, 24)])
            httpx.post(f"{pair.ours.url}/abort_request", json={"rid": "aborted"}, timeout=60).raise_for_status()
            assert_same(*beside.result())
        assert list(lines)[-1]["meta_info"]["finish_reason"]["type"] == "abort"
    with httpx.stream("POST", f"{pair.ours.url}/generate", json={**body, "rid": "hung up"}, timeout=300) as stream:
        next(stream.iter_lines())
    assert_same(*pair.ask([free(REPEATING, 24)]))


def test_requests_that_are_retracted_go_on_as_they_would_have(pair: Pair) -> None:
    """They are prefilled with what they have said, so where two tokens are as likely, the other one may be said."""
    texts = [f"{number}. {REPEATING}" for number in range(8)]
    stock, ours = pair.ask([free(text, 112) for text in texts], at_a_time=8)
    assert sum(answer["meta_info"]["num_retractions"] for answer in ours) > 0
    assert all(len(answer["output_ids"]) == 112 for answer in ours)
    assert_same(stock, ours, within=TIE)


def test_a_predicted_call_is_one_step_or_two(pair: Pair) -> None:
    """Once a few that were predicted have been right."""
    encode = tokenizer()
    answer = encode('<tool_call>{"name":"look","arguments":{"path":"src/main.py"}}</tool_call><|im_end|>')
    start = encode("<|im_start|>assistant\n")
    given = Given((predicted([*start, *answer]),), (), len(answer))
    params = {
        "temperature": 0,
        "max_new_tokens": len(answer),
        "custom_params": {FORCED_IDS: answer, HINTS: msgspec.json.encode(given).decode()},
    }
    body = {"input_ids": [*encode("<|im_start|>user\nLook.<|im_end|>\n"), *start], "sampling_params": params}
    steps = []
    for _ in range(12):
        found = httpx.post(f"{pair.ours.url}/generate", json=body, timeout=300).raise_for_status().json()
        assert found["output_ids"] == answer
        steps.append(found["meta_info"]["spec_verify_ct"])
    assert min(steps) <= 2, steps
    assert found["meta_info"]["paste_accepted_drafts"]["predicted"] > len(answer) // 2


def test_calls_that_come_at_once_are_streamed_whole(pair: Pair) -> None:
    paths = ("src/main.py", "src/util.py")
    text = "\n".join(f'<tool_call>{{"name":"look","arguments":{{"path":"{path}"}}}}</tool_call>' for path in paths)
    encode = tokenizer()
    answer = encode(f"{text}<|im_end|>")
    given = Given((predicted([*encode("<|im_start|>assistant\n"), *answer]),), (), len(answer))
    parameters = {"type": "object", "properties": {"path": {"type": "string"}}}
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "Look at both."}],
        "tools": [{"type": "function", "function": {"name": "look", "parameters": parameters}}],
        "temperature": 0,
        "max_tokens": len(answer),
        "stream": True,
        "custom_params": {FORCED_IDS: answer, HINTS: msgspec.json.encode(given).decode()},
    }
    found: dict[int, list[str]] = {}
    chunks = 0
    with httpx.stream("POST", f"{pair.ours.url}/v1/chat/completions", json=body, timeout=300) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: {"):
                chunks += 1
                for call in json.loads(line[6:])["choices"][0]["delta"].get("tool_calls") or []:
                    found.setdefault(call["index"], []).append(call["function"].get("arguments") or "")
    assert [json.loads("".join(pieces)) for pieces in found.values()] == [{"path": path} for path in paths]
    assert chunks < len(answer) // 2


def assert_same(
    stock: Sequence[Answer], ours: Sequence[Answer], *, within: float | None = TIES, what: str = ""
) -> None:
    """The same tokens, for the same reason at their end. Where `within` is given, a token may be another if the two
    likeliest differ no more than that in the logarithms of their probabilities; what comes after it is not compared."""
    for one, other in zip(stock, ours, strict=True):
        said, wanted = other["output_ids"], one["output_ids"]
        at = next((at for at, pair in enumerate(zip(said, wanted, strict=False)) if pair[0] != pair[1]), None)
        if at is None:
            assert said == wanted, what
            assert other["meta_info"]["finish_reason"] == one["meta_info"]["finish_reason"]
            continue
        assert within is not None, f"{what} at token {at}: {said[at:]} in place of {wanted[at:]}"
        (best, *_), (second, *_) = one["meta_info"]["output_top_logprobs"][at]
        assert best - second <= within


def flat(logprobs: Any) -> list[float]:
    """The numbers of a list of logprobs, or of a list of such lists."""
    return [number for each in logprobs for number in (flat(each) if isinstance(each[0], list) else [each[0], each[1]])]


def flatly(found: Any) -> list[Answer]:
    """All answers of a request, which may have several."""
    return found if isinstance(found, list) else [found]
