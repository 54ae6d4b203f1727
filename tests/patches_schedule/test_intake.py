"""Prompts that are ahead of their sessions reach the scheduler only while nothing real waits, and answer nobody."""

import warnings
from array import array
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from sglang_paste.calls import DEFAULT_TENANT, SessionId
from sglang_paste.patches import intake
from sglang_paste.patches.warm import PREFIX
from sglang_paste.schedule.warm import WarmLine
from sglang_paste.session import Note
from sglang_paste.session.note import KEY, write

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from sglang.srt.managers.io_struct import AbortReq

pytestmark = pytest.mark.host

RID = f"{PREFIX}7."


class Engine:
    """The parts of a scheduler that the hooks look at, and one step of its loop."""

    def __init__(self) -> None:
        self.waiting_queue: list[Any] = []
        self.chunked_req: Any = None
        self.running_batch = SimpleNamespace(batch_is_full=False, sampling_info=None, is_empty=lambda: True, reqs=[])
        self.max_running_requests = 2
        self.grammar_manager = SimpleNamespace(has_waiting_grammars=lambda: False)

    def step(self, *received: Any) -> list[Any]:
        """What the scheduler gets to see when `received` came."""
        pulled = intake.pulled(list(received), None)
        return list(received) if pulled is None else pulled


@pytest.fixture
def engine() -> Iterator[Engine]:
    with (
        mock.patch.object(intake, "_line", WarmLine(slice_tokens=16)),
        mock.patch.object(intake, "_scheduler", None),
        mock.patch.object(intake, "get_observability", return_value=SimpleNamespace(enable_metrics=False)),
    ):
        engine = Engine()
        intake.serve(engine)
        yield engine


def ahead(rid: str = RID, length: int = 250, start: int | None = 50) -> Any:
    note = Note(tenant=DEFAULT_TENANT, session=SessionId("s"), tools=b"[]", ahead=start)  # type: ignore[arg-type]
    sampling = SimpleNamespace(custom_params={KEY: str(write(note))})
    return SimpleNamespace(rid=rid, input_ids=array("q", range(length)), sampling_params=sampling)


def real(rid: str = "real") -> Any:
    return SimpleNamespace(rid=rid, input_ids=array("q", [1, 2]), sampling_params=SimpleNamespace(custom_params=None))


def request(rid: str = RID, reason: str = "length", *, finished: bool = True) -> Any:
    why = SimpleNamespace(to_json=lambda: {"type": reason})
    return SimpleNamespace(rid=rid, finished=lambda: finished, finished_reason=why)


def streamed(*reqs: Any) -> list[Any]:
    """Those whose output goes on to a client."""
    changed = intake.streaming("streamer", list(reqs), False, skip_req=None)
    if changed is None:
        return list(reqs)
    (streamer, left, logprob), named = changed
    assert (streamer, logprob, named) == ("streamer", False, {"skip_req": None})
    return list(left)


def lengths(requests: list[Any]) -> list[int]:
    return [len(each.input_ids) for each in requests]


def test_slices_go_in_one_after_the_other(engine: Engine) -> None:
    seen = []
    given = engine.step(ahead())
    while given:
        seen += lengths(given)
        assert engine.step() == []
        assert streamed(request(finished=False), request("real")) != []
        assert [each.rid for each in streamed(request(), request("real"))] == ["real"]
        given = engine.step()
    assert seen == [*range(66, 234, 16), 234]


@pytest.mark.parametrize("greedy", [True, False])
def test_a_slice_is_sampled_as_those_it_runs_beside(engine: Engine, greedy: bool) -> None:
    engine.running_batch.is_empty = lambda: False
    engine.running_batch.sampling_info = SimpleNamespace(is_all_greedy=greedy)
    [piece] = engine.step(ahead())
    assert (piece.sampling_params.top_k == 1) == greedy


def test_real_work_goes_first(engine: Engine) -> None:
    engine.step()
    work = real()
    assert engine.step(work, ahead()) == [work]
    assert engine.step(work) == [work]
    engine.waiting_queue.append(work)
    assert engine.step() == []
    engine.waiting_queue.clear()
    engine.chunked_req = work
    assert engine.step() == []
    engine.chunked_req = None
    engine.running_batch.batch_is_full = True
    assert engine.step() == []
    engine.running_batch.batch_is_full = False
    assert lengths(engine.step()) == [66]


def test_nobody_makes_room_for_a_slice(engine: Engine) -> None:
    engine.running_batch.reqs = [real("one"), real("two")]
    assert engine.step(ahead()) == []
    engine.running_batch.reqs.pop()
    assert [each.rid for each in engine.step()] == [RID]


def test_a_slice_that_waits_is_aborted_for_real_work_and_done_again(engine: Engine) -> None:
    [piece] = engine.step(ahead())
    work = real()
    engine.waiting_queue.append(piece)
    assert engine.step() == []
    # What comes with it is not to share its batch.
    abort, came = engine.step(work)
    assert isinstance(abort, AbortReq)
    assert abort.rid == RID
    assert came is work
    engine.waiting_queue.append(work)
    [again] = engine.step()
    assert again.rid == RID
    told: list[Any] = []
    intake.aborting(lambda *args: told.append(args), engine, abort, piece)
    intake.aborting(lambda *args: told.append(args), engine, abort, real())
    assert len(told) == 1
    engine.waiting_queue.clear()
    assert lengths(engine.step()) == [66]


def test_a_slice_that_runs_ends_unless_it_goes_on_in_chunks(engine: Engine) -> None:
    [piece] = engine.step(ahead())
    work = real()
    assert engine.step(work) == [work]
    engine.chunked_req = piece
    assert [each.rid for each in engine.step(work)] == [RID, work.rid]


def test_a_chunk_that_was_aborted_counts_for_nothing(engine: Engine) -> None:
    engine.step(ahead())
    assert streamed(request(reason="abort")) == []
    assert lengths(engine.step()) == [66]


def test_a_session_that_is_back_takes_its_prompt_along(engine: Engine) -> None:
    engine.step()
    work, gone = real(), AbortReq(rid=RID)
    engine.waiting_queue.append(work)
    assert engine.step(ahead()) == []
    assert engine.step(gone) == []
    engine.waiting_queue.clear()
    assert engine.step() == []
    # One whose slice is under way is aborted in the engine as well.
    assert lengths(engine.step(ahead())) == [66]
    assert engine.step(AbortReq(rid=RID)) == [gone]


def test_clients_may_call_their_requests_what_they_like(engine: Engine) -> None:
    engine.step()
    named, noted = real(RID), ahead(start=None)
    assert engine.step(named) == [named]
    assert engine.step(noted) == [noted]
    abort = AbortReq(rid=RID)
    assert engine.step(abort) == [abort]
    assert [each.rid for each in streamed(request())] == [RID]


def test_other_ranks_receive_nothing(engine: Engine) -> None:
    assert intake.pulled(None, None) is None
