"""Sessions keep their KV on the real server while strangers fill the rest of a small cache, and give it up in time."""

import random
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from real_server import wait_for
from tiny_server import TinyServer, tiny_server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

POOL = 4096
TOOL = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Look at a file",
        "parameters": {"type": "object", "properties": {"file": {"type": "string"}}, "required": ["file"]},
    },
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TinyServer]:
    folder = tmp_path_factory.mktemp("retention")
    flags = ["--enable-tool-speculation", "--tool-state-dir", str(folder / "state"), "--enable-metrics"]
    flags += ["--enable-cache-report", "--max-total-tokens", str(POOL)]
    with tiny_server(folder / "log", *flags) as small:
        yield small


def words(seed: int, count: int) -> str:
    chance = random.Random(seed)
    return " ".join(str(chance.randint(0, 999)) for _ in range(count))


def ask(server: TinyServer, messages: list[Any], session: str | None = None) -> tuple[int, int]:
    """The tokens of a prompt, and how many of them were cached."""
    body: dict[str, Any] = {"model": "m", "messages": messages, "max_tokens": 8, "temperature": 0, "ignore_eos": True}
    if session is not None:
        body |= {"session_id": session, "tools": [TOOL]}
    reply = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=300, trust_env=False)
    usage = reply.raise_for_status().json()["usage"]
    return usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]


def said(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def metric(server: TinyServer, pattern: str) -> float:
    text = httpx.get(f"{server.url}/metrics", timeout=60, follow_redirects=True, trust_env=False).text
    return sum(map(float, re.findall(rf"^paste_retention_{pattern}.* (\S+)$", text, re.MULTILINE)))


def total(server: TinyServer, name: str, label: str) -> float:
    return metric(server, rf'{name}_total{{[^}}]*"{label}"')


def test_sessions_outlast_strangers_and_give_way_to_who_needs_the_room(small: TinyServer) -> None:
    left = {session: said(words(number, 150)) for number, session in enumerate("abc")}
    lengths = {session: ask(small, messages, session)[0] for session, messages in left.items()}
    wait_for(lambda: metric(small, "held_tokens") == sum(lengths.values()) + 3 * 7, seconds=60)
    for seed in range(100, 112):
        ask(small, said(words(seed, 150)))
    assert ask(small, said(words(100, 150)))[1] < 100
    for session, messages in left.items():
        _, cached = ask(small, [*messages, {"role": "user", "content": "Go on."}], session)
        assert cached >= lengths[session] - 10
    whole, _ = ask(small, said(words(200, 900)))
    assert whole > 3 * POOL // 4
    wait_for(lambda: total(small, "returns", "whole") >= 3, seconds=60)
    wait_for(lambda: total(small, "ends", "given_up") >= 1, seconds=60)


def test_a_flush_leaves_nothing_behind(small: TinyServer) -> None:
    ask(small, said(words(1, 150)), "d")
    assert httpx.post(f"{small.url}/flush_cache", timeout=60, trust_env=False).status_code == 200
    _, cached = ask(small, [*said(words(1, 150)), {"role": "user", "content": "Go on."}], "d")
    assert cached == 0
