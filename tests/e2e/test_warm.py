"""A tool's long result is in the cache before the session comes back with it, on the real server, and nobody's answer
is another for it."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from real_server import TOKEN, Server, running_server, wait_for

from sglang_paste.schedule.warm import LEFT_TOKENS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

FUNCTION = {
    "name": "list_numbers",
    "description": "List the first numbers.",
    "parameters": {
        "type": "object",
        "properties": {"up_to": {"enum": [200]}},
        "required": ["up_to"],
        "additionalProperties": False,
    },
    "strict": True,
}
IGNORING_THE_END = {"ignore_eos": True}


@pytest.fixture(scope="module")
def warming(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One of its own, with slices so small that a prompt takes several."""
    with running_server(tmp_path_factory.mktemp("warming"), "--tool-warm-slice", "128") as server:
        yield server


def counted(server: Server, name: str) -> float:
    """The sum of a counter over its labels."""
    text = httpx.get(f"{server.url}/metrics", timeout=30, follow_redirects=True).text
    return sum(float(value) for value in re.findall(rf"^{name}{{.*}} (\S+)$", text, re.MULTILINE))


class Session:
    """A client's session: it asks for a call, has it run by the gateway, and comes back with the result."""

    def __init__(self, server: Server, client: openai.OpenAI, name: str) -> None:
        self._server, self._client, self._name = server, client, name
        self._messages: list[Any] = [{"role": "user", "content": f"List the first numbers for {name}."}]

    def ask(self, **fields: Any) -> Any:
        return self._client.chat.completions.create(
            model="default",
            temperature=0,
            max_tokens=60,
            messages=self._messages,
            tools=[{"type": "function", "function": FUNCTION}],
            extra_body={"session_id": self._name, "return_meta_info": not fields.get("stream")},
            **fields,
        )

    def call(self, *, stream: bool) -> tuple[str, str, str]:
        """The answer, which is a call."""
        return called(self.ask(tool_choice="required", stream=stream), stream=stream)

    def run(self, content: str, call_id: str, arguments: str) -> None:
        """Have the call run, whose result is in the next request."""
        with self._server.tools() as tools:
            body = {"arguments": json.loads(arguments), "call_id": call_id}
            result = tools.post("/v1/tools/list_numbers", json=body).json()
        assert result["content"].startswith("1\n2\n3\n")
        function = {"name": "list_numbers", "arguments": arguments}
        call = {"id": call_id, "type": "function", "function": function}
        self._messages.append({"role": "assistant", "content": content, "tool_calls": [call]})
        self._messages.append({"role": "tool", "tool_call_id": call_id, "content": result["content"]})


@pytest.fixture
def client(warming: Server) -> Iterator[openai.OpenAI]:
    wait_for(warming.is_serving_tools, seconds=120)
    with openai.OpenAI(base_url=f"{warming.url}/v1", api_key=TOKEN, timeout=120, max_retries=0) as client:
        yield client


@pytest.mark.parametrize("stream", [False, True])
def test_the_next_turn_finds_its_result_in_the_cache(warming: Server, client: openai.OpenAI, stream: bool) -> None:
    tokens, prompts = counted(warming, "paste_warm_tokens_total"), counted(warming, "paste_warm_prompts_total")
    session = Session(warming, client, f"warm {stream}")
    answer = session.call(stream=stream)
    session.run(*answer)
    wait_for(lambda: counted(warming, "paste_warm_prompts_total") > prompts, seconds=300)
    assert counted(warming, "paste_warm_tokens_total") > tokens + 500
    warmed = session.ask(tool_choice="auto", logprobs=True, top_logprobs=5).choices[0]
    assert warmed.meta_info["prompt_tokens"] > 600
    assert warmed.meta_info["prompt_tokens"] - warmed.meta_info["cached_tokens"] <= LEFT_TOKENS + 1, answer
    httpx.post(
        f"{warming.url}/flush_cache", headers={"authorization": f"Bearer {TOKEN}"}, timeout=60
    ).raise_for_status()
    alone = session.ask(tool_choice="auto", logprobs=True, top_logprobs=5).choices[0]
    assert alone.meta_info["cached_tokens"] == 0
    # Prefilled in other pieces, a prompt may differ in its last bits, of which a logit in bfloat16 has few.
    first, other = likely(warmed, 3), likely(alone, 5)
    assert first == pytest.approx({token: other[token] for token in first}, abs=0.5)


def test_a_stream_beside_it_says_the_same(warming: Server, client: openai.OpenAI) -> None:
    def story() -> str:
        messages: list[Any] = [{"role": "user", "content": "Tell me about the numbers, the sea and the mountains."}]
        stream = client.chat.completions.create(
            model="default", temperature=0, max_tokens=128, messages=messages, stream=True, extra_body=IGNORING_THE_END
        )
        return "".join(choice.delta.content or "" for chunk in stream for choice in chunk.choices)

    alone = story()
    session = Session(warming, client, "beside")
    answer = session.call(stream=False)
    tokens = counted(warming, "paste_warm_tokens_total")
    with ThreadPoolExecutor(1) as pool:
        told = pool.submit(story)
        session.run(*answer)
        wait_for(lambda: counted(warming, "paste_warm_tokens_total") > tokens + 300, seconds=300)
        assert not told.done(), "nothing was prefilled while the stream ran"
        assert told.result() == alone


def likely(choice: Any, count: int) -> dict[str, float]:
    """The likeliest first tokens of an answer and the logarithms of their probabilities."""
    return {each.token: each.logprob for each in choice.logprobs.content[0].top_logprobs[:count]}


def called(answer: Any, *, stream: bool) -> tuple[str, str, str]:
    """The text of an answer, and the id and the arguments of its one call."""
    if not stream:
        message = answer.choices[0].message
        [call] = message.tool_calls
        return message.content or "", call.id, call.function.arguments
    deltas = [choice.delta for chunk in answer for choice in chunk.choices]
    pieces = [call for delta in deltas for call in delta.tool_calls or ()]
    text = "".join(delta.content or "" for delta in deltas)
    return text, pieces[0].id, "".join(piece.function.arguments or "" for piece in pieces)
