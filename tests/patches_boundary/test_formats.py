"""Whatever a model writes, and however it is committed: what is announced is what the API returns, and in time."""

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
from boundary_host import Kept, api_calls, decode, encode, play, turn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.tool_formats import FORMATS, Call, Format
from sglang_paste.boundary import scan
from sglang_paste.boundary.gate import CLOSING, INSIDE, OPENING, Reader, Vocabulary
from sglang_paste.events import (
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

pytestmark = pytest.mark.host

MAX_LIKELY = 4


class Output(NamedTuple):
    """A model's output, and where the arguments of each of its calls end."""

    text: str
    calls: list[Call]
    closed: list[int]


def output(form: Format, before: str, calls: list[Call], after: str) -> Output:
    text, closed = before, []
    *parts, rest = form.render(calls)
    for part in parts:
        text += part
        closed.append(len(text))
    return Output(text + rest + after, calls, closed)


TRICKY = ['a "quoted" {brace} [x]', "back\\slash\\", "Zürich 🏔️ 東京", "line\nbreak\ttab", "it's, so: = (ok)", "", "<b>"]
letters = st.characters(codec="utf-8", max_codepoint=0x1FAFF, exclude_categories=["Cc", "Cs", "Cn", "Co"])
# The tokenizer has no tokens for some bytes, so that not every text can be said at all.
texts = st.text(letters, max_size=12).filter(lambda text: decode(encode(text)) == text) | st.sampled_from(TRICKY)
scalars = st.none() | st.booleans() | st.integers(-(10**6), 10**6) | texts


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3)


def outputs(name: str) -> st.SearchStrategy[Output]:
    """Random outputs of what a format can say."""
    # SGLang's pythonic detector takes no dictionary with keys that are not plain, and needs the call at the end.
    values = st.lists(scalars, max_size=3) if name == "pythonic" else st.recursive(scalars, nested, max_leaves=6)
    arguments = st.fixed_dictionaries({}, optional={"path": texts, "n": st.integers(-99, 99), "more": values})
    call = st.builds(Call, st.sampled_from(["read", "write_file", "z"]), arguments)
    bare = name in ("plain", "llama3", "gpt-oss")
    before = st.just("") if bare else st.sampled_from(["", "Let me look.\n", 'So {x: 1} is "it"; don\'t.\n'])
    after = st.just("") if bare or name == "pythonic" else st.sampled_from(["", "\nDone."])
    return st.builds(output, st.just(FORMATS[name]), before, st.lists(call, min_size=1, max_size=3), after)


runs = st.lists(st.integers(1, 9), min_size=1, max_size=5) | st.just([1]) | st.just([100_000])


def check_order(events: Sequence[EngineEvent]) -> None:
    """One start, one end, and between them each call in its order."""
    assert isinstance(events[0], TurnStarted)
    assert isinstance(events[-1], TurnEnded)
    assert [event.position for event in events] == sorted(event.position for event in events)
    ready, stage, likely = 0, "closed", 0
    for event in events[1:-1]:
        assert event.index == ready  # type: ignore[union-attr]
        match event:
            case CallOpened():
                assert stage == "closed"
                stage, likely = "opened", 0
            case CallNamed():
                assert stage == "opened"
                stage = "named"
            case CallPartial():
                assert stage == "named"
            case CallLikely():
                assert stage == "named"
                likely += 1
            case CallReady():
                assert stage == "named"
                stage, ready = "closed", ready + 1
            case CallAborted():
                assert stage in ("opened", "named")
                stage = "closed"
            case _:
                pytest.fail(f"unexpected {event}")
        assert likely <= MAX_LIKELY
    assert stage == "closed"
    assert events[-1].calls == ready


def check_ready(form: Format, out: Output, events: Kept) -> None:
    """What was ready is what the API returns, to the letter."""
    found = [(event.tool, event.arguments) for event in events.of(CallReady)]
    assert found == [tuple(call) for call in api_calls(form, out.text)]


def check_prompt(out: Output, events: Kept, sizes: Sequence[int]) -> None:
    """Each call was ready with the commit that closed its arguments."""
    tokens = encode(out.text)
    ends = [0]
    while ends[-1] < len(tokens):
        ends.append(min(len(tokens), ends[-1] + sizes[(len(ends) - 1) % len(sizes)]))
    for event, closed in zip(events.of(CallReady), out.closed, strict=True):
        assert event.position == next(end for end in ends if len(decode(tokens[:end]).rstrip("\ufffd")) >= closed)


def check_likely(out: Output, events: Kept) -> None:
    """A candidate has what is required, a part lacks some of it, and neither has what the call did not get."""
    for part in events.of(CallPartial):
        known = json.loads(part.arguments)
        assert "path" not in known
        assert known.items() <= out.calls[part.index].arguments.items()
    for event in events.of(CallLikely):
        call = out.calls[event.index]
        candidate = json.loads(event.arguments)
        assert event.tool == call.tool
        assert "path" in candidate
        assert candidate.items() <= call.arguments.items() or candidate == call.arguments


def check(name: str, out: Output, sizes: Sequence[int]) -> None:
    form, kept = FORMATS[name], Kept()
    play(turn(form, kept), out.text, sizes)
    check_order(kept.events)
    check_ready(form, out, kept)
    if len(kept.of(CallReady)) == len(out.calls):
        check_prompt(out, kept, sizes)


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_ready_is_what_the_api_returns(name: str, data: st.DataObject) -> None:
    check(name, data.draw(outputs(name)), data.draw(runs))


@pytest.mark.parametrize("name", FORMATS)
def test_all_formats_find_parallel_calls(name: str) -> None:
    calls = [Call("read", {"path": "Zürich 🏔"}), Call("z", {"path": "b", "n": 3})]
    out = output(FORMATS[name], "", calls, "")
    kept = Kept()
    play(turn(FORMATS[name], kept), out.text, [1])
    assert [(event.tool, json.loads(event.arguments)) for event in kept.of(CallReady)] == calls
    check_prompt(out, kept, [1])
    check_likely(out, kept)


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_events_do_not_depend_on_commits(name: str, data: st.DataObject) -> None:
    out = data.draw(outputs(name))
    seen = []
    for sizes in ([1], data.draw(runs)):
        kept = Kept()
        play(turn(FORMATS[name], kept), out.text, sizes)
        seen.append(
            [
                (type(event), getattr(event, "index", 0), getattr(event, "arguments", ""), getattr(event, "said", ""))
                for event in kept.events
            ]
        )
    assert seen[0] == seen[1]


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), cut=st.floats(0, 1))
def test_a_cut_turn_leaves_no_call_open(name: str, data: st.DataObject, cut: float) -> None:
    out, kept = data.draw(outputs(name)), Kept()
    play(turn(FORMATS[name], kept), out.text[: int(len(out.text) * cut)], [1], "length")
    check_order(kept.events)
    assert kept.events[-1].reason == "length"  # type: ignore[union-attr]


class Everything(Vocabulary):
    """A vocabulary in which every token matters."""

    def learn(self, token: int) -> int:
        return OPENING | INSIDE | CLOSING


EMOJI = Call("read", {"path": "🏔️ } 東京"})
ESCAPED = Call("read", {"path": 'a \\" } b'})


def test_the_property_catches_a_reader_that_does_not_hold_back(monkeypatch: pytest.MonkeyPatch) -> None:
    out, read = output(FORMATS["hermes"], "", [EMOJI], ""), Reader.read
    check("hermes", out, [1])
    # Every token is looked at, and none is held back.
    monkeypatch.setattr(Reader, "read", lambda self, tokens, **_: read(self, tokens, last=True))
    monkeypatch.setattr("boundary_host.vocabulary", lambda style: Everything(decode, style))
    with pytest.raises(AssertionError):
        check("hermes", out, [1])


def test_the_property_catches_a_scanner_that_ignores_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    check("hermes", output(FORMATS["hermes"], "", [ESCAPED], ""), [1])
    monkeypatch.setattr(scan, "_JSON", scan.re.compile(r'["{}\[\],:]'))
    with pytest.raises(AssertionError):
        check("hermes", output(FORMATS["hermes"], "", [ESCAPED], ""), [1])
