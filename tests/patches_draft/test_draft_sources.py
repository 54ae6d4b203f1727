"""What a scheduler's requests and the side process bring becomes hints on every rank."""

import json
import os
import warnings
from array import array
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from boundary_host import Kept, encode, own_tokenizer

from bench.tool_formats import FORMATS, TOOLS, Call
from sglang_paste.calls import DEFAULT_TENANT, SessionId, TenantId
from sglang_paste.config import Settings
from sglang_paste.draft.hints import Hints, Source
from sglang_paste.draft.offers import HEAD
from sglang_paste.events import Draft, ForeseenCall
from sglang_paste.patches import arm, bus
from sglang_paste.session import Note
from sglang_paste.wire.memory import MemorySide

os.environ.setdefault("SGLANG_USE_CPU_ENGINE", "1")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import msgspec
    from sglang.utils import TypeBasedDispatcher

    from sglang_paste.patches import draft_sources, scheduler
    from sglang_paste.patches.draft_lookup import Lookup

pytestmark = pytest.mark.host

OTHER = TenantId("other")
PROMPT = encode("Go.<|im_end|>\n<|im_start|>assistant\n")
CALL = Call("read", {"path": "src/a.py", "n": 1})
# The tokenizer's template writes none that the server's parser would find, so it is as SGLang's grammar has it.
PRESCRIBED = '<tool_call>\n{"name":"read", "arguments":{"path": "src/a.py", "n": 1}}\n</tool_call>'
WRITTEN = "".join(FORMATS["qwen25"].render([CALL]))


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return own_tokenizer()


class Request(SimpleNamespace):
    """What of a request is looked at; unlike its base it can be referred to weakly."""


class World:
    """A scheduler with two ranks, the first of which decides."""

    def __init__(self, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.side = MemorySide()
        self.sink = Kept()
        self.hints = [Hints(), Hints()]
        bus.use(bus.BusSink("scheduler", self.side.connect("scheduler")))
        served = SimpleNamespace(chat_template=None, tool_call_parser="qwen25", reasoning_parser=None)
        monkeypatch.setattr(draft_sources, "get_serving", lambda: served)
        monkeypatch.setattr(draft_sources, "get_observability", lambda: SimpleNamespace(enable_metrics=False))
        self.host = SimpleNamespace(
            tokenizer=tokenizer,
            spec_algorithm=SimpleNamespace(is_ngram=lambda: True),
            _request_dispatcher=TypeBasedDispatcher([]),
        )
        self.watch = scheduler.Watch(
            tokenizer, "qwen25", None, draft_sources.tapped(self.host, self.sink, "qwen25"), {}
        )
        draft_sources.dispatching(None, self.host)
        self._monkeypatch = monkeypatch

    def begin(self, rid: str, *, tenant: TenantId = DEFAULT_TENANT, session: str = "s") -> Any:
        """A request that was just queued, and its turn."""
        req = Request(
            rid=rid,
            stream=False,
            sampling_params=SimpleNamespace(skip_special_tokens=False),
            origin_input_ids=array("q", PROMPT),
            origin_input_ids_unpadded=array("q", PROMPT),
            output_ids_through_stop=array("q"),
        )
        tools = msgspec.Raw(json.dumps(TOOLS).encode())
        return req, self.watch.begin(req, Note(tenant=tenant, session=SessionId(session), tools=tools))

    def answer(self, started: Any, text: str, size: int = 7) -> None:
        """The model writes a whole answer in runs of tokens."""
        request, turn = started
        tokens = encode(text)
        for at in range(0, len(tokens), size):
            request.output_ids_through_stop.extend(tokens[at : at + size])
            turn.commit(tokens[at : at + size])
        turn.end("stop")

    def foresee(self, *calls: Call, tenant: TenantId = DEFAULT_TENANT, session: str = "s") -> None:
        foreseen = tuple(ForeseenCall(tool=tool, arguments=json.dumps(value), probability=0.5) for tool, value in calls)
        self.side.tell([Draft(tenant=tenant, session=SessionId(session), time=0.0, calls=foreseen)], to="scheduler")

    def step(self) -> None:
        """An iteration: what rank 0 says is taken in by both."""
        for message in draft_sources.polled([], self.host) or []:
            for hints in self.hints:
                self._monkeypatch.setattr(draft_sources, "hints", lambda hints=hints: hints)
                self.host._request_dispatcher(message)

    def texts(self, rid: str, source: Source) -> list[tuple[int, ...]]:
        mine, others = ([hint.tokens for hint in hints.of(rid) if hint.source == source] for hints in self.hints)
        assert mine == others
        return mine


@pytest.fixture
def world(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    settings = Settings(
        tool_config=None, gateway_host="", gateway_port=0, run_dir="", state_dir="", draft_sources=tuple(Source)
    )
    monkeypatch.setattr(arm, "_held", settings)
    monkeypatch.setattr(draft_sources, "_drafts", None)
    made = World(tokenizer, monkeypatch)
    yield made
    bus.use(None)
    made.side.close()


def test_a_foreseen_call_is_a_hint_on_every_rank(world: World) -> None:
    started = world.begin("r")
    world.foresee(CALL)
    world.step()
    (text,) = world.texts("r", Source.PREDICTED)
    assert list(text[:HEAD]) == PROMPT[-HEAD:]
    assert list(text[HEAD:]) == encode(PRESCRIBED)
    assert started


@pytest.mark.parametrize("before", ["", "I read it.\n"])
def test_a_call_that_was_foreseen_is_one_draft_from_its_second_token_on(world: World, before: str) -> None:
    started = world.begin("r")
    world.foresee(CALL)
    world.step()
    call = encode(PRESCRIBED)
    text = [*PROMPT, *encode(before), *call[:1]]
    lookup = Lookup(world.hints[1], 64, ("predicted",))
    (found,) = lookup.find([started[0]], torch.tensor([text], dtype=torch.int32), torch.tensor([len(text)]))
    assert found.match.tokens[0, : found.match.count[0]].tolist() == call[1:]


def test_what_came_before_the_request_is_there_when_it_begins(world: World) -> None:
    world.foresee(CALL)
    world.step()
    started = world.begin("r")
    world.step()
    assert len(world.texts("r", Source.PREDICTED)) == 1
    assert started


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_what_a_turn_wrote_is_drafted_for_the_next_in_its_own_tokens(world: World, size: int) -> None:
    world.answer(world.begin("r"), f"I read.\n{WRITTEN}<|im_end|>", size)
    second = world.begin("s", session="t")
    world.step()
    assert world.texts("s", Source.PAST) == [tuple(encode(f"{WRITTEN}<|im_end|>"))]
    world.foresee(Call("read", {"n": 2, "path": "b"}), session="t")
    world.step()
    (text,) = world.texts("s", Source.PREDICTED)
    like = '<tool_call>\n{"name": "read", "arguments": {"path": "b", "n": 2}}\n</tool_call><|im_end|>'
    assert list(text[HEAD:]) == encode(like)
    assert second


def test_parallel_calls_are_kept_each_for_itself(world: World) -> None:
    calls = [CALL, Call("z", {"path": "c"})]
    world.answer(world.begin("r"), "".join(FORMATS["qwen25"].render(calls)), 1)
    second = world.begin("s")
    world.step()
    (text,) = world.texts("s", Source.PAST)
    first, last = "".join(FORMATS["qwen25"].render(calls[:1])), "".join(FORMATS["qwen25"].render(calls[1:]))
    assert _rows(text) == [encode(first.removesuffix("\n</tool_call>")), encode(last)]
    assert second


def test_nothing_reaches_another_tenant(world: World) -> None:
    world.answer(world.begin("r"), WRITTEN)
    world.foresee(CALL)
    other = world.begin("s", tenant=OTHER)
    world.step()
    assert world.texts("s", Source.PAST) == []
    assert world.texts("s", Source.PREDICTED) == []
    assert len(world.texts("s", Source.SKELETON)) == 1
    assert other


def test_a_name_narrows_what_is_offered(world: World) -> None:
    started = world.begin("r")
    world.foresee(Call("z", {"path": "c"}), CALL)
    world.step()
    assert len(world.texts("r", Source.PREDICTED)) == 2
    request, turn = started
    tokens = encode('<tool_call>\n{"name": "read",')
    request.output_ids_through_stop.extend(tokens)
    turn.commit(tokens)
    world.step()
    assert len(world.texts("r", Source.PREDICTED)) == 1


def test_a_failure_costs_the_draft_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("broken")

    assert draft_sources._drafts is not None
    monkeypatch.setattr(draft_sources._drafts._offers, "began", fail)
    world.answer(world.begin("r"), WRITTEN)
    world.step()
    assert world.sink.events[-1].reason == "tool_calls"  # type: ignore[union-attr]


def test_what_is_foretold_does_not_pile_up_where_nobody_wants_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draft_sources, "_drafts", None)
    world.foresee(CALL)
    assert draft_sources.polled([], world.host) is None
    assert bus.sink("scheduler").receive(drafts=True) == []


@pytest.mark.parametrize("why", ["no source", "no drafting"])
def test_without_drafts_the_sink_is_untouched(world: World, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    if why == "no source":
        monkeypatch.setattr(arm, "_held", msgspec.structs.replace(arm.settings(), draft_sources=()))
    else:
        world.host.spec_algorithm = SimpleNamespace(is_ngram=lambda: False)
    sink = Kept()
    assert draft_sources.tapped(world.host, sink, "qwen25") is sink


def _rows(text: tuple[int, ...]) -> list[list[int]]:
    rows: list[list[int]] = [[]]
    for token in text:
        if token < 0:
            rows.append([])
        else:
            rows[-1].append(token)
    return rows
