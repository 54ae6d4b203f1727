"""A conversation whose turns cost their new tokens, on the real server."""

from typing import Any

import httpx
import pytest
from real_server import TOKEN, Server

pytestmark = pytest.mark.e2e


def ask(server: Server, messages: list[Any], **fields: Any) -> tuple[str, dict[str, Any]]:
    """The greedy answer, and what the engine says of the request."""
    body = {"model": "default", "messages": messages, "temperature": 0, "max_tokens": 24, "return_meta_info": True}
    answer = httpx.post(
        f"{server.url}/v1/chat/completions",
        json={**body, **fields},
        headers={"authorization": f"Bearer {TOKEN}"},
        timeout=300,
    )
    assert answer.status_code == 200, answer.text
    choice = answer.json()["choices"][0]
    return choice["message"]["content"], choice["meta_info"]


@pytest.mark.timeout(600)
def test_only_what_is_new_is_prefilled(server: Server) -> None:
    messages = [
        {"role": "system", "content": "Answer in one short sentence. Count the turns: " + "one two three. " * 40}
    ]
    known = 0
    for number, question in enumerate(("What is a river?", "And a lake?", "Which of them flows?")):
        messages.append({"role": "user", "content": question})
        text, meta = ask(server, messages)
        # The last token of an answer was never read, and so has no cache.
        assert meta["cached_tokens"] >= known - 1
        assert meta["prompt_tokens"] - meta["cached_tokens"] < 40 or number == 0
        fresh, other = ask(server, messages, cache_salt=f"fresh-{number}")
        assert (fresh, other["cached_tokens"]) == (text, 0)
        known = meta["prompt_tokens"] + meta["completion_tokens"]
        messages.append({"role": "assistant", "content": text})
