"""The hooks of retention: which requests are held for whom, and how rank 0's word reaches every rank."""

import logging
import time
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from cache_world import World

from sglang_paste.calls import DEFAULT_TENANT, SessionId
from sglang_paste.config import Settings
from sglang_paste.events import CallReady, EngineDirective, EngineEvent, Release, TurnEnded
from sglang_paste.schedule.holds import Whose
from sglang_paste.session import Note
from sglang_paste.session.note import KEY, write

pytestmark = pytest.mark.host

from sglang.srt.managers.schedule_batch import FINISH_ABORT  # noqa: E402

from sglang_paste.patches import bus, retention, retention_cache, rounds  # noqa: E402
from sglang_paste.patches.retention_cache import RetainingCache  # noqa: E402
from sglang_paste.patches.retention_host import TieredCache  # noqa: E402

WHOSE = Whose(DEFAULT_TENANT, SessionId("s"))
TEXT = list(range(60))


@pytest.fixture
def world() -> World:
    return World("rust")


@pytest.fixture
def inbox(monkeypatch: pytest.MonkeyPatch) -> list[EngineDirective]:
    """What the side process has said."""
    said: list[EngineDirective] = []

    def receive() -> list[EngineDirective]:
        taken, said[:] = list(said), []
        return taken

    monkeypatch.setattr(bus, "sink", lambda name: SimpleNamespace(receive=receive))
    return said


def scheduler(world: World) -> Any:
    return SimpleNamespace(tree_cache=world.cache)


def noted(world: World, tokens: list[int], *, ahead: int | None = None, note: str | None = None) -> Any:
    """A request as the tokenizer process sends it, queued."""
    req = world.queue(None, tokens)
    text = note or str(write(Note(tenant=WHOSE.tenant, session=WHOSE.session, tools=msgspec.Raw(b"[]"), ahead=ahead)))
    req.sampling_params.custom_params = {KEY: text}
    retention.queued(scheduler(world), req)
    return req


def turn(world: World, tokens: list[int], **fields: Any) -> Any:
    req = noted(world, tokens, **fields)
    world.admit(req)
    world.finish(req)
    return req


def test_a_request_with_a_note_is_held_for_its_session(world: World) -> None:
    req = turn(world, TEXT)
    assert [(hold.whose, hold.request, hold.tokens) for hold in world.held()] == [(WHOSE, req.rid, 60)]
    assert world.keeper.book.session(WHOSE)


def test_a_request_without_one_is_not(world: World) -> None:
    req = world.queue(None, TEXT)
    retention.queued(scheduler(world), req)
    assert retention.place_of(req) is None


def test_a_note_that_cannot_be_read_costs_its_hold_alone(world: World, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.CRITICAL):
        req = turn(world, TEXT, note="{")
    assert retention.place_of(req) is None
    assert not world.held()


def test_a_retracted_request_goes_on_wanting(world: World) -> None:
    turn(world, TEXT)
    req = noted(world, [*TEXT, *range(500, 520)])
    rounds.queued(scheduler(world), req, is_retracted=True)
    assert world.held()[0].wanted == {req.rid}


def test_an_aborted_request_wants_nothing_any_more(world: World) -> None:
    turn(world, TEXT)
    req = noted(world, [*TEXT, *range(500, 520)])
    retention.aborted(None, req)
    assert world.held()[0].wanted == set()


def test_a_request_that_ends_with_nothing_but_its_answer_wants_nothing_any_more(world: World) -> None:
    turn(world, TEXT)
    req, other = (noted(world, [*TEXT, *range(500, 520)]) for _ in range(2))
    req.finished_reason = FINISH_ABORT()
    retention.streaming(None, [req, other], False)
    assert world.held()[0].wanted == {other.rid}


def test_a_request_that_is_aborted_while_it_runs_leaves_the_hold_before_it(world: World) -> None:
    first = turn(world, TEXT)
    req = noted(world, [*TEXT, *range(500, 520)])
    world.admit(req)
    world.finish(req, reason=FINISH_ABORT())
    assert [hold.request for hold in world.held()] == [first.rid]
    assert world.held()[0].wanted == set()


def test_what_is_prefilled_ahead_is_held_with_what_it_continues(world: World) -> None:
    first = turn(world, TEXT)
    turn(world, [*TEXT, *range(500, 540)], ahead=60)
    assert [(hold.request, hold.tokens) for hold in world.held()] == [(first.rid, 100)]
    session = world.keeper.book.session(WHOSE)
    assert session
    assert [branch.state for branch in session.branches.values()] == ["idle"]


def test_what_rank_0_decides_is_applied_on_all_ranks(world: World, inbox: list[EngineDirective]) -> None:
    turn(world, TEXT)
    standing = retention.decide(scheduler(world), time.monotonic())
    assert standing
    retention.apply(scheduler(world), standing)
    assert 0 < world.held()[0].value < 1e9


def test_a_rank_without_a_keeper_says_nothing(world: World, inbox: list[EngineDirective]) -> None:
    turn(world, TEXT)
    world.retention.keeper = None
    assert retention.decide(scheduler(world), time.monotonic()) is None


def test_a_release_by_the_side_process_ends_the_hold(world: World, inbox: list[EngineDirective]) -> None:
    turn(world, TEXT)
    inbox.append(Release(tenant=WHOSE.tenant, session=WHOSE.session, time=0.0))
    standing = retention.decide(scheduler(world), time.monotonic())
    assert standing
    retention.apply(scheduler(world), standing)
    assert not world.held()


def test_a_keeper_that_fails_is_done_without(
    world: World, inbox: list[EngineDirective], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn(world, TEXT)
    monkeypatch.setattr(world.keeper.book, "direct", lambda directives: 1 / 0)
    with caplog.at_level(logging.CRITICAL):
        assert retention.decide(scheduler(world), time.monotonic()) is None
    assert world.retention.keeper is None
    assert world.held()
    turn(world, [*TEXT, *range(500, 520)])
    assert world.held()[0].tokens == 80


def test_the_book_sees_what_the_turns_say(world: World) -> None:
    sent: list[Any] = []
    sink = retention.tapped(scheduler(world), SimpleNamespace(send=sent.append))
    req = noted(world, TEXT)
    head: dict[str, Any] = {"tenant": WHOSE.tenant, "session": WHOSE.session, "request": req.rid, "position": 0}
    events: list[EngineEvent] = [
        CallReady(**head, time=1.0, index=0, tool="look", arguments="{}"),
        TurnEnded(**head, time=1.0, reason="tool_calls", calls=1),
    ]
    sink.send(events)
    assert sent == [events]
    branch = world.keeper.book.branch(WHOSE, req.rid)
    assert branch
    assert (branch.state, branch.tools) == ("away", ("look",))


@pytest.mark.parametrize(
    ("budget", "disabled", "given", "made", "tokens"),
    [
        (0.5, False, None, RetainingCache, 500),
        (0.0, False, None, None, 0),
        (0.5, True, None, None, None),
        (0.5, False, object, object, None),
        (0.5, False, None, TieredCache, 500),
    ],
)
def test_the_servers_own_cache_retains(
    monkeypatch: pytest.MonkeyPatch, budget: float, disabled: bool, given: Any, made: Any, tokens: int | None
) -> None:
    settings = Settings(
        tool_config=None, gateway_host="", gateway_port=1, run_dir="", state_dir="", retention_budget=budget
    )
    monkeypatch.setattr(retention_cache, "settings", lambda: settings)
    monkeypatch.setattr(
        retention_cache, "get_parallel", lambda: SimpleNamespace(pp_rank=0, attn_tp_rank=0, attn_cp_rank=0)
    )
    monkeypatch.setattr(retention_cache, "get_observability", lambda: SimpleNamespace(enable_metrics=False))
    allocator = SimpleNamespace(size=1000)
    context = SimpleNamespace(
        disable_radix_cache=disabled,
        params=SimpleNamespace(token_to_kv_pool_allocator=allocator),
        model_config=SimpleNamespace(hidden_size=64),
        enable_hierarchical_cache=made is TieredCache,
    )
    asked: list[Any] = []

    def original(ctx: Any, *, cache_class: Any = None) -> Any:
        asked.append(cache_class)
        return SimpleNamespace()

    cache = retention_cache.made(original, context, cache_class=given)
    assert asked == [made]
    kept = getattr(cache, "retention", None)
    assert (kept.budget if kept and kept.keeper else None) == tokens
