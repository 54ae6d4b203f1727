"""The next prompt of a session is rendered ahead exactly as it will be, by SGLang's own objects."""

import asyncio
import warnings
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from api_host import host

from bench.turns.host import delta_turns
from bench.turns.session import TOOLS
from sglang_paste.calls import DEFAULT_TENANT, SessionId
from sglang_paste.events import Warm
from sglang_paste.patches import bus, warm
from sglang_paste.patches.api_turn import ApiTurn
from sglang_paste.patches.warm import PREFIX, Warmer
from sglang_paste.session.note import KEY, read
from sglang_paste.session.reply import Reply, ReplyCall
from sglang_paste.wire.memory import MemorySide

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from sglang.srt.entrypoints.openai.protocol import ChatCompletionRequest
    from sglang.srt.managers.io_struct import AbortReq, TokenizedGenerateReqInput

pytestmark = [pytest.mark.host, pytest.mark.filterwarnings("ignore:max_tokens is deprecated:DeprecationWarning")]

SESSION = SessionId("s")
MESSAGES = [
    {"role": "system", "content": "You mend code."},
    {"role": "user", "content": "Why does é.py fail? 🙂"},
]
REPLY = Reply("I look.", [ReplyCall("c0", "read_file", '{"path": "é.py"}'), ReplyCall("c1", "grep", '{"text": "x"}')])
META = {"id": "r", "prompt_tokens": 100, "completion_tokens": 20}


@pytest.fixture
def side() -> Iterator[MemorySide]:
    host().sent.clear()
    line = MemorySide()
    bus.use(bus.BusSink("api", line.connect("api")))
    with delta_turns():
        yield line
    bus.use(None)
    line.close()


class Listening(Warmer):
    """Told of directives by hand."""

    def _listen(self) -> None: ...


def turn() -> ApiTurn:
    return ApiTurn(DEFAULT_TENANT, SESSION, [], bus.sink("api"))


def request(**fields: Any) -> Any:
    return ChatCompletionRequest(messages=MESSAGES, **{"model": "m", "tools": TOOLS, **fields})


def result(index: int, content: str) -> Warm:
    return Warm(tenant=DEFAULT_TENANT, session=SESSION, time=0.0, request="r", index=index, content=content)


def following(results: list[str]) -> list[int]:
    """The prompt of the client's real next request, as stock SGLang makes it."""
    answers = [
        {"role": "tool", "tool_call_id": f"c{number}", "content": content} for number, content in enumerate(results)
    ]
    messages = [*MESSAGES, REPLY.message(), *answers]
    with delta_turns(0):
        made = ChatCompletionRequest(model="m", messages=messages, tools=TOOLS)
        return list(host().chat._convert_to_internal_request(made)[0].input_ids)


def run(work: Callable[[Warmer], Awaitable[None]]) -> list[Any]:
    async def main() -> None:
        warmer = Listening()
        await work(warmer)
        while warmer._tasks:
            await asyncio.gather(*warmer._tasks)

    asyncio.run(main())
    return host().sent


async def settled(warmer: Warmer) -> None:
    while warmer._tasks:
        await asyncio.gather(*warmer._tasks)


def test_the_prompt_is_the_one_that_will_come(side: MemorySide) -> None:
    async def work(warmer: Warmer) -> None:
        warmer.began(turn(), host().chat, request(stream=True, temperature=0.7))
        warmer.replied(turn(), META, REPLY)
        warmer.take([result(0, "def f(): ...\n" * 50)])
        await settled(warmer)
        warmer.take([result(1, "")])

    first, abort, second = run(work)
    assert isinstance(first, TokenizedGenerateReqInput)
    assert list(first.input_ids) == following(["def f(): ...\n" * 50])
    assert isinstance(abort, AbortReq)
    assert abort.rid == first.rid
    assert list(second.input_ids) == following(["def f(): ...\n" * 50, ""])
    for sent in (first, second):
        assert sent.rid.startswith(PREFIX)
        assert sent.rid.endswith(".")
        assert (sent.sampling_params.max_new_tokens, sent.stream) == (0, False)
        assert sent.sampling_params.top_k == 1
        note = read(sent.sampling_params.custom_params[KEY])
        assert (note.tenant, note.session, note.ahead) == (DEFAULT_TENANT, SESSION, 120)
    assert not host().manager.rid_to_state


def test_no_request_makes_room_for_a_prompt_that_is_ahead(side: MemorySide) -> None:
    async def work(warmer: Warmer) -> None:
        warmer.began(turn(), host().chat, request(priority=20))
        warmer.replied(turn(), META, REPLY)
        warmer.take([result(0, "text")])

    assert [sent.priority for sent in run(work)] == [None]


def test_the_weights_of_an_adapter_are_never_taken_for_others(
    side: MemorySide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host().chat, "_resolve_lora_path", lambda model, path: path or model.partition(":")[2] or None)

    async def work(warmer: Warmer) -> None:
        warmer.began(turn(), host().chat, request(model="m:adapter"))
        warmer.replied(turn(), META, REPLY)
        warmer.take([result(0, "text")])

    assert run(work) == []


def test_no_event_tells_of_a_request_that_nobody_made(side: MemorySide) -> None:
    async def work(warmer: Warmer) -> None:
        warmer.began(turn(), host().chat, request())
        warmer.replied(turn(), META, REPLY)
        warmer.take([result(0, "text")])

    assert len(run(work)) == 1
    assert side._receive.statistics().current_buffer_used == 0
    assert not warm.rendering()


def test_a_session_that_is_back_ends_what_was_ahead_of_it(side: MemorySide) -> None:
    async def work(warmer: Warmer) -> None:
        warmer.began(turn(), host().chat, request())
        warmer.replied(turn(), META, REPLY)
        warmer.take([result(0, "text")])
        await settled(warmer)
        warmer.began(turn(), host().chat, request())
        warmer.take([result(1, "late")])

    sent, abort = run(work)
    assert isinstance(abort, AbortReq)
    assert abort.rid == sent.rid


def test_a_session_that_is_back_while_its_prompt_is_made_gets_none(side: MemorySide) -> None:
    async def work(warmer: Warmer) -> None:
        warmer.began(turn(), host().chat, request())
        warmer.replied(turn(), META, REPLY)
        warmer.take([result(0, "text")])
        warmer.began(turn(), host().chat, request())

    assert run(work) == []


@pytest.mark.parametrize("fields", [{"n": 2}, {"lora_path": "other"}, {"input_ids": [1, 2]}])
def test_what_is_no_plain_text_is_left_alone(side: MemorySide, fields: dict[str, Any]) -> None:
    async def work(warmer: Warmer) -> None:
        warmer.began(turn(), host().chat, request(**fields))
        warmer.replied(turn(), META, REPLY)
        warmer.take([result(0, "text")])

    assert run(work) == []
