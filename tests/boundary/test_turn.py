"""A turn announces its calls once and in order, and no detector can hurt its host."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from sglang_paste.boundary import FoundCall, Shape, Tally, Turn, TurnHead, Vocabulary
from sglang_paste.boundary import turn as turn_module
from sglang_paste.boundary.call import MAX_PARTIAL
from sglang_paste.boundary.gate import Reader
from sglang_paste.boundary.shape import json_shape, opaque_shape
from sglang_paste.calls import DEFAULT_TENANT, SessionId
from sglang_paste.events import (
    MAX_SAID_CHARS,
    CallAborted,
    CallLikely,
    CallNamed,
    CallOpened,
    CallPartial,
    CallReady,
    EngineEvent,
    TurnEnded,
    TurnStarted,
)
from sglang_paste.wire.frames import decode as wire_decode
from sglang_paste.wire.frames import encode

REQUIRED = {"save": ("path",), "now": ()}


def decode(tokens: Sequence[int]) -> str:
    return bytes(tokens).decode(errors="replace")


class Lines:
    """A host's parser: one JSON object in <c>…</c> for each call."""

    def __init__(self, shape: Shape | None = None) -> None:
        self.shape = shape or json_shape("<c>", "}</c>")
        self.asked = 0

    def answer_start(self, text: str, *, whole: bool) -> int:
        return 0

    def opened(self, text: str) -> bool:
        return "<c>" in text

    def calls(self, text: str) -> list[FoundCall]:
        self.asked += 1
        found = []
        for part in re.findall(r"<c>(.*?)</c>", text, re.DOTALL):
            try:
                value = json.loads(part)
            except ValueError:
                continue
            if isinstance(value, dict) and value.get("name") in REQUIRED:
                found.append(FoundCall(value["name"], json.dumps(value.get("arguments", {}), ensure_ascii=False)))
        return found


class Thinking(Lines):
    """Calls count after the thought only."""

    def answer_start(self, text: str, *, whole: bool) -> int:
        at = text.find("</think>")
        return -1 if at < 0 else at + len("</think>")


class Broken(Lines):
    def calls(self, text: str) -> list[FoundCall]:
        raise RecursionError


class Stage:
    """A turn with its events."""

    def __init__(self, detector: Lines | None = None, required: Mapping[str, tuple[str, ...]] = REQUIRED) -> None:
        self.events: list[EngineEvent] = []
        self.detector = detector or Lines()
        self.tally = Tally()
        head = TurnHead(tenant=DEFAULT_TENANT, session=SessionId("s"), request="r")
        self.turn = Turn(
            head,
            self.detector,
            Vocabulary(decode, self.detector.shape.style),
            Reader(decode),
            self,
            required=required,
            tally=self.tally,
            clock=lambda: 7.0,
        )
        self.turn.start(3, ("save", "now"))

    def send(self, events: Sequence[EngineEvent]) -> None:
        assert events
        self.events.extend(events)

    def say(self, text: str, size: int = 1) -> "Stage":
        data = text.encode()
        for at in range(0, len(data), size):
            self.turn.commit(list(data[at : at + size]))
        return self

    def kinds(self) -> list[type[Any]]:
        return [type(event) for event in self.events]

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


CALL = '<c>{"name": "save", "arguments": {"path": "ä.py", "mode": 1}}</c>'


def test_a_call_step_by_step() -> None:
    stage = Stage().say("I will. " + CALL)
    stage.turn.end("stop")
    assert stage.kinds() == [TurnStarted, CallOpened, CallNamed, CallLikely, CallReady, TurnEnded]
    likely, ready = stage.of(CallLikely)[0], stage.of(CallReady)[0]
    assert json.loads(likely.arguments) == {"path": "ä.py"}
    assert json.loads(ready.arguments) == {"path": "ä.py", "mode": 1}
    assert ready.position == len(("I will. " + CALL).encode()) - len("}</c>")
    assert (ready.tenant, ready.session, ready.request, ready.time) == ("default", "s", "r", 7.0)
    assert stage.events[-1] == TurnEnded(
        tenant=DEFAULT_TENANT,
        session=SessionId("s"),
        request="r",
        position=ready.position + len("}</c>"),
        time=7.0,
        reason="tool_calls",
        calls=1,
    )


def test_the_first_call_comes_with_what_was_said_before_it() -> None:
    for size in (1, 7, 100):
        stage = Stage().say("I will, ä. " + CALL + " And: " + CALL, size)
        assert [event.said for event in stage.of(CallOpened)] == ["I will, ä. ", ""]
        thought = Stage(Thinking()).say("Hm, <c>?</think>So: " + CALL, size)
        assert thought.of(CallOpened)[0].said == "Hm, <c>?</think>So: "
    long = Stage().say("x" * 9000 + CALL, 100).of(CallOpened)[0].said
    assert long == "x" * MAX_SAID_CHARS


def test_prose_is_not_looked_at() -> None:
    stage = Stage().say("A long answer without any call, one letter at a time. " * 20)
    stage.turn.end("stop")
    assert stage.kinds() == [TurnStarted, TurnEnded]
    assert stage.of(TurnEnded)[0].reason == "stop"
    assert stage.detector.asked == 0


def test_arguments_are_told_one_by_one_until_all_required_ones_are_there() -> None:
    needed = {"save": ("path", "mode", "why")}
    stage = Stage(required=needed).say('<c>{"name": "save", "arguments": {"path": "a", "mode": [1, 2], "why": "x"')
    assert [json.loads(event.arguments) for event in stage.of(CallPartial)] == [
        {"path": "a"},
        {"path": "a", "mode": [1, 2]},
    ]
    assert [json.loads(event.arguments) for event in stage.of(CallLikely)] == [
        {"path": "a", "mode": [1, 2], "why": "x"}
    ]
    many = {"save": tuple(f"n{number}" for number in range(9))}
    values = ", ".join(f'"n{number}": 1' for number in range(9))
    stage = Stage(required=many).say(f'<c>{{"name": "save", "arguments": {{{values}')
    assert len(stage.of(CallPartial)) == MAX_PARTIAL


def test_a_tool_without_required_arguments_is_a_candidate_when_they_open() -> None:
    stage = Stage().say('<c>{"name": "now", "arguments": {')
    assert [event.arguments for event in stage.of(CallLikely)] == ["{}"]


def test_an_object_before_the_arguments_is_not_taken_for_them() -> None:
    stage = Stage().say('<c>{"name": "save", "meta": {"path": "no"}, "arguments": {"path": "yes"}}</c>')
    stage.turn.end("stop")
    assert {event.arguments for event in stage.of(CallReady) + stage.of(CallLikely)} == {'{"path": "yes"}'}


def test_arguments_before_the_name() -> None:
    stage = Stage().say('<c>{"arguments": {"path": "a"}, "name": "save"}</c>')
    stage.turn.end("stop")
    assert [event.arguments for event in stage.of(CallReady)] == ['{"path": "a"}']


def test_an_unknown_tool_is_aborted_and_does_not_count() -> None:
    stage = Stage().say('<c>{"name": "rm", "arguments": {}}</c>' + CALL)
    stage.turn.end("stop")
    aborted = stage.of(CallAborted)
    assert [(event.index, event.tool, event.reason) for event in aborted] == [(0, None, "error")]
    assert [(event.index, event.tool) for event in stage.of(CallReady)] == [(0, "save")]


@pytest.mark.parametrize("reason", ["length", "abort", "error", "stop"])
def test_a_cut_call_is_aborted(reason: Any) -> None:
    stage = Stage().say(CALL[:45])
    stage.turn.end(reason)
    assert [(event.tool, event.reason) for event in stage.of(CallAborted)] == [("save", reason)]
    assert stage.of(TurnEnded)[0].reason == reason


def test_a_turn_ends_once() -> None:
    stage = Stage().say(CALL)
    stage.turn.end("stop")
    stage.turn.end("abort")
    stage.turn.commit([65])
    assert len(stage.of(TurnEnded)) == 1


def test_what_the_stop_string_cuts_off_is_no_call() -> None:
    stage = Stage()
    stage.turn.commit(list(CALL.encode()[:10]))
    stage.turn.commit([])
    stage.turn.end("stop", trim=lambda text: text[:5])
    assert not stage.of(CallReady)


def test_candidates_are_few() -> None:
    pairs = ", ".join(f'"k{number}": {number}' for number in range(400))
    text = f'<c>{{"name": "save", "arguments": {{"path": "a", {pairs}}}}}</c>'
    stage = Stage().say(text)
    stage.turn.end("stop")
    assert 1 <= len(stage.of(CallLikely)) <= 4
    assert len({event.arguments for event in stage.of(CallLikely)}) == len(stage.of(CallLikely))
    assert stage.detector.asked < 40


def test_a_long_object_of_an_unknown_tool_is_not_asked_about_forever() -> None:
    items = ", ".join('{"name": "x"}' for _ in range(300))
    stage = Stage().say(f'<c>{{"name": "rm", "arguments": {{"path": [{items}]}}}}</c>')
    stage.turn.end("stop")
    assert stage.detector.asked < 40


def test_calls_in_a_thought_do_not_count() -> None:
    stage = Stage(Thinking()).say(f"Perhaps {CALL}? No.</think>Here: {CALL}")
    stage.turn.end("stop")
    assert len(stage.of(CallReady)) == 1
    assert stage.of(CallOpened)[0].position > len(CALL)


def test_a_detector_that_raises_is_not_asked_again() -> None:
    stage = Stage(Broken()).say(CALL)
    stage.turn.end("stop")
    assert stage.kinds() == [TurnStarted, CallOpened, CallAborted, TurnEnded]
    assert (stage.tally.raised, stage.tally.slow) == (1, 0)


def test_half_a_character_in_an_argument_reaches_the_side_process_as_nothing() -> None:
    class Wired(Stage):
        def send(self, events: Sequence[EngineEvent]) -> None:
            for frame in encode(events):
                super().send(wire_decode(frame.data))  # type: ignore[arg-type]

    stage = Wired().say('<c>{"name": "save", "arguments": {"path": "\\ud800"}}</c>' + CALL)
    stage.turn.end("stop")
    assert [json.loads(event.arguments)["path"] for event in stage.of(CallReady)] == ["ä.py"]
    assert stage.events[-1].calls == 2
    assert stage.tally.raised == 0


def test_a_sink_that_raises_does_not_reach_the_host() -> None:
    class Full(Stage):
        def send(self, events: Sequence[EngineEvent]) -> None:
            raise OSError

    stage = Full().say(CALL)
    stage.turn.end("stop")
    assert stage.tally.raised > 0


def test_a_slow_detector_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn_module, "BUDGET_S", 0.0)
    monkeypatch.setattr(turn_module, "BUDGET_PER_TOKEN_S", 0.0)
    stage = Stage().say(CALL)
    stage.turn.end("stop")
    assert stage.kinds()[-1] is TurnEnded
    assert not stage.of(CallReady)
    assert stage.tally.slow == 1


def test_a_restart_aborts_what_was_thrown_away() -> None:
    stage = Stage().say(CALL[:50])
    stage.turn.restart()
    stage.say(CALL)
    stage.turn.end("stop")
    assert stage.kinds() == [TurnStarted, CallOpened, CallNamed, CallLikely, CallAborted, TurnEnded]


def test_an_unknown_format_is_ready_at_its_end_marker() -> None:
    stage = Stage(Lines(opaque_shape("<c>", "</c>"))).say(CALL + CALL)
    stage.turn.end("stop")
    assert [event.index for event in stage.of(CallReady)] == [0, 1]
    assert stage.of(CallReady)[0].position == len(CALL.encode())
