"""What SGLang's requests go through in the scheduler: every turn that starts ends once, with what the API returns."""

import gc
import json
import os
import warnings
from array import array
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from boundary_host import Kept, encode, tokenizer

from bench.tool_formats import TOOLS
from sglang_paste.calls import DEFAULT_TENANT, SessionId
from sglang_paste.events import CallAborted, CallLikely, CallReady, TurnEnded, TurnStarted
from sglang_paste.session import Note
from sglang_paste.session.note import KEY, write

os.environ.setdefault("SGLANG_USE_CPU_ENGINE", "1")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from sglang.srt.managers import schedule_batch
    from sglang.srt.managers.schedule_batch import FINISH_ABORT, Req
    from sglang.srt.sampling.sampling_params import SamplingParams

    from sglang_paste.patches import scheduler as hooks

pytestmark = pytest.mark.host

CALL = '<tool_call>{"name": "read", "arguments": {"path": "a", "n": 1}}</tool_call>'
END = 2


class FastTokenizer:
    """What the hooks and SGLang's requests use of a tokenizer."""

    is_fast = False
    eos_token_id = END
    additional_stop_token_ids = None

    def decode(self, tokens: list[int], *, skip_special_tokens: bool = False, **_: Any) -> str:
        return str(tokenizer().decode(list(tokens), skip_special_tokens=skip_special_tokens))

    def encode(self, text: str, **_: Any) -> list[int]:
        return encode(text)

    def __len__(self) -> int:
        return int(tokenizer().get_vocab_size())


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Kept:
    """The events of a scheduler whose hooks call what they would call in place."""
    sink = Kept()
    watch = hooks.Watch(FastTokenizer(), "hermes", None, sink, {"read": ("n",)})
    monkeypatch.setattr(hooks, "watch", lambda _scheduler: watch)
    return sink


def note(choice: str = "auto") -> str:
    tools = msgspec.Raw(json.dumps(TOOLS).encode())
    return str(write(Note(tenant=DEFAULT_TENANT, session=SessionId("s"), tools=tools, choice=choice)))


def request(text: str | None = None, **sampling: Any) -> Req:
    custom = {KEY: note() if text is None else text}
    params = SamplingParams(
        **{"max_new_tokens": 200, "custom_params": custom, "skip_special_tokens": False, **sampling}
    )
    params.normalize(FastTokenizer())
    req = Req(
        "r1", "", array("q", encode("Say something")), params, eos_token_ids={END}, vocab_size=len(FastTokenizer())
    )
    req.tokenizer = FastTokenizer()
    return req


def queue(req: Req, *, is_retracted: bool = False) -> None:
    hooks.queued(lambda *_: None, SimpleNamespace(), req, is_retracted)


def commit(req: Req, tokens: list[int]) -> None:
    req.output_ids.extend(tokens)
    req.update_finish_state(len(tokens))
    hooks.committed(None, req, len(tokens))


def generate(req: Req, text: str, size: int = 1) -> None:
    tokens = encode(text)
    for at in range(0, len(tokens), size):
        commit(req, tokens[at : at + size])


def ended(kept: Kept) -> list[tuple[str, int]]:
    assert isinstance(kept.events[0], TurnStarted)
    return [(event.reason, event.calls) for event in kept.of(TurnEnded)]


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_a_call_and_a_stop_token(kept: Kept, size: int) -> None:
    req = request()
    queue(req)
    generate(req, "Sure. " + CALL, size)
    commit(req, [END])
    assert [event.arguments for event in kept.of(CallReady)] == ['{"path": "a", "n": 1}']
    assert [event.arguments for event in kept.of(CallLikely)] == ['{"path": "a"}']
    assert ended(kept) == [("tool_calls", 1)]
    assert kept.events[0] == TurnStarted(
        tenant=DEFAULT_TENANT,
        session=SessionId("s"),
        request="r1",
        position=0,
        time=kept.events[0].time,  # type: ignore[union-attr]
        prompt_tokens=len(req.origin_input_ids),
        tools=("read", "write_file", "z"),
    )


def test_tokens_after_the_stop_do_not_count(kept: Kept) -> None:
    req = request()
    queue(req)
    commit(req, [*encode("No call."), END, *encode(CALL)])
    assert ended(kept) == [("stop", 0)]
    assert not kept.of(CallReady)


def test_a_stop_string_takes_the_call_with_it(kept: Kept) -> None:
    req = request(stop=["arguments"])
    queue(req)
    generate(req, CALL)
    assert [event.tool for event in kept.of(CallAborted)] == ["read"]
    assert ended(kept) == [("stop", 0)]


def test_length(kept: Kept) -> None:
    req = request(max_new_tokens=12)
    queue(req)
    generate(req, CALL, 5)
    assert [event.reason for event in kept.of(CallAborted)] == ["length"]
    assert ended(kept) == [("length", 0)]


@pytest.mark.parametrize(("status", "reason"), [(None, "abort"), (500, "error")])
def test_an_abort_while_running(kept: Kept, status: Any, reason: str) -> None:
    req = request()
    queue(req)
    generate(req, CALL[:40])
    req.to_finish = FINISH_ABORT("gone", status_code=status)
    commit(req, encode("x"))
    assert [event.reason for event in kept.of(CallAborted)] == [reason]
    assert ended(kept) == [(reason, 0)]


def test_an_abort_while_waiting(kept: Kept) -> None:
    req = request()
    queue(req)
    hooks.aborted(None, req, {"type": "abort", "status_code": 503})
    hooks.aborted(None, req)
    assert ended(kept) == [("error", 0)]


def test_retraction_keeps_the_turn(kept: Kept) -> None:
    req = request()
    queue(req)
    generate(req, CALL[:40])
    queue(req, is_retracted=True)
    generate(req, CALL[40:])
    commit(req, [END])
    assert len(kept.of(TurnStarted)) == 1
    assert len(kept.of(CallReady)) == 1
    assert ended(kept) == [("tool_calls", 1)]


def test_retraction_that_throws_the_output_away(kept: Kept) -> None:
    req = request()
    queue(req)
    generate(req, CALL[:40])
    req.output_ids = array("q")
    queue(req, is_retracted=True)
    generate(req, CALL)
    commit(req, [END])
    assert len(kept.of(CallAborted)) == 1
    assert len(ended(kept)) == 1


def test_a_request_that_is_lost_ends_its_turn(kept: Kept) -> None:
    req = request()
    queue(req)
    del req
    gc.collect()
    assert ended(kept) == [("abort", 0)]


@pytest.mark.parametrize("text", ["{}", "nonsense", '{"tenant":1}'])
def test_a_note_that_cannot_be_read_turns_boundaries_off(
    kept: Kept, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    req = request(text)
    queue(req)
    generate(req, CALL)
    assert kept.events == []
    assert "boundaries are off for request r1" in caplog.text


def test_requests_without_tools_and_beams_have_no_turn(kept: Kept) -> None:
    plain, beam, warm = request(), request(), request(max_new_tokens=0)
    plain.sampling_params.custom_params = None
    beam.beam_group = SimpleNamespace()
    for req in (plain, beam, warm):
        queue(req)
    generate(plain, CALL)
    assert kept.events == []


def test_equal_tools_are_read_once(kept: Kept) -> None:
    watch = hooks.watch(None)
    assert watch is not None
    data = json.dumps(TOOLS).encode()
    assert watch._tool_set(data) is watch._tool_set(bytes(bytearray(data)))
    assert watch._tool_set(data).required["read"] == ("path",)


def test_the_table_names_what_is_there() -> None:
    from sglang_paste.patches import check, table

    check.require(table.BOUNDARIES)
    assert schedule_batch.Req is Req
