"""Where room is short a request waits for sessions that are back at once, on every rank, seen by nobody meanwhile."""

import time
import warnings
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from cache_world import World

from sglang_paste.calls import DEFAULT_TENANT, SessionId
from sglang_paste.config import Settings
from sglang_paste.patches import arm, bus
from sglang_paste.schedule.holds import Whose
from sglang_paste.wire.memory import MemorySide

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from sglang.srt.managers.schedule_policy import CacheAgnosticPolicy
    from sglang.utils import TypeBasedDispatcher

    from sglang_paste.patches import intake, retention_host, return_order, rounds
    from sglang_paste.patches.return_order import Order

pytestmark = pytest.mark.host

TEXT = list(range(200))
OTHER = list(range(1000, 1150))
BOUND = 5.0


class Rank:
    """The parts of a scheduler that the hooks look at, over a real cache of 256 tokens."""

    def __init__(self) -> None:
        self.world = World("rust")
        self.tree_cache, self.token_to_kv_pool_allocator = self.world.cache, self.world.allocator
        self.waiting_queue: list[Any] = []
        self.policy = SimpleNamespace(policy=CacheAgnosticPolicy.FCFS)
        self.enable_priority_scheduling = self.require_mlp_sync = False
        self.max_total_num_tokens, self.max_running_requests = 256, 4
        self.metrics_reporter = SimpleNamespace(last_gen_throughput=0.0)
        self.running_batch = SimpleNamespace(reqs=[], is_empty=lambda: True)
        self._request_dispatcher = TypeBasedDispatcher([])
        rounds.dispatching(None, self)

    def away(self, seconds: float) -> None:
        """The session a has its text in the cache, and left for a tool that always took so long."""
        self.world.turn("a", TEXT)
        self.called(seconds)

    def called(self, seconds: float) -> None:
        """What the session a said was a call of a tool that always took so long."""
        book, whose = self.world.keeper.book, Whose(DEFAULT_TENANT, SessionId("a"))
        latest = book.session(whose)
        assert latest is not None
        assert latest.latest is not None
        latest.latest.state, latest.latest.tools = "away", ("read",)
        for _ in range(40):
            book.kinds.add(latest.latest.kind, seconds, tool=True)
        self.world.keeper.pace.observe(100, 1.0)

    def queue(self, session: str | None, tokens: list[int], *, waited: float = 0.0) -> Any:
        req = self.world.queue(session, tokens)
        rounds.queued(self, req)
        self.waiting_queue.append(req)
        req.time_stats.wait_queue_entry_time = time.perf_counter() - waited
        return req

    def step(self) -> list[Any]:
        """What rank 0 says at the beginning of an iteration."""
        said = rounds.polled([], self) or []
        self.take(said)
        return [each for each in said if isinstance(each, Order)]

    def take(self, said: list[Any]) -> None:
        for message in said:
            self._request_dispatcher(message)

    def admissible(self) -> list[str]:
        """Who may be let in, as SGLang's own code sees it."""
        seen: list[str] = []

        def original(scheduler: Any, *_: Any) -> tuple[None, Any]:
            seen.extend(req.rid for req in scheduler.waiting_queue)
            return None, scheduler.running_batch

        before = [req.rid for req in self.waiting_queue]
        return_order.admitting(original, self, None, self.running_batch)
        assert sorted(before) == sorted(req.rid for req in self.waiting_queue), "a request was lost"
        return seen


@pytest.fixture(autouse=True)
def process() -> Any:
    settings = Settings(tool_config=None, gateway_host="", gateway_port=0, run_dir="", state_dir="", return_bound=BOUND)
    side = MemorySide()
    bus.use(bus.BusSink("scheduler", side.connect("scheduler")))
    with (
        mock.patch.object(arm, "_held", settings),
        mock.patch.object(intake, "_scheduler", None),
        mock.patch.object(return_order, "get_parallel", return_value=SimpleNamespace(pp_size=1)),
        mock.patch.object(retention_host, "tiers", return_value=None),
    ):
        yield
    bus.use(None)
    side.close()


def test_a_request_waits_for_a_session_that_is_back_at_once() -> None:
    rank = Rank()
    rank.away(0.05)
    req = rank.queue(None, OTHER)
    assert rank.admissible() == []
    rank.step()
    assert rank.admissible() == []
    back = rank.queue("a", [*TEXT, *range(300, 310)])
    rank.step()
    assert rank.admissible() == [back.rid]
    assert req in rank.waiting_queue


def test_not_for_one_that_is_long_away() -> None:
    rank = Rank()
    rank.away(60.0)
    req = rank.queue(None, OTHER)
    rank.step()
    assert rank.admissible() == [req.rid]


def test_not_for_longer_than_the_bound() -> None:
    rank = Rank()
    rank.away(0.05)
    req = rank.queue(None, OTHER, waited=BOUND)
    assert rank.step() == [Order((req.rid,), due=(req.rid,))]
    assert rank.admissible() == [req.rid]


def test_who_waited_for_room_does_not_take_the_place_of_a_session_that_leaves() -> None:
    rank = Rank()
    with rank.world.running("a", TEXT):
        req = rank.queue(None, OTHER)
        rank.step()
    rank.called(0.05)
    assert rank.admissible() == []
    rank.step()
    assert rank.admissible() == []
    assert rank.waiting_queue == [req]


def test_who_has_waited_for_long_goes_on_however_many_sessions_leave() -> None:
    rank = Rank()
    rank.away(0.05)
    req = rank.queue(None, OTHER, waited=BOUND)
    rank.step()
    for session in "bc":
        rank.world.turn(session, TEXT[:40])
        assert rank.admissible() == [req.rid]


def test_not_where_there_is_room() -> None:
    rank = Rank()
    rank.away(0.05)
    req = rank.queue(None, OTHER[:40])
    assert rank.admissible() == [req.rid]
    assert rank.step() == []


def test_a_request_that_was_let_in_before_does_not_wait() -> None:
    rank = Rank()
    rank.away(0.05)
    req = rank.world.queue(None, OTHER)
    rounds.queued(rank, req, is_retracted=True)
    req.output_ids.append(1)
    rank.waiting_queue.append(req)
    rank.step()
    assert rank.admissible() == [req.rid]


def test_other_ranks_hold_back_what_rank_0_says() -> None:
    first, second = Rank(), Rank()
    for rank in (first, second):
        rank.away(0.05)
        rank.queue(None, OTHER, waited=BOUND)
    assert second.admissible() == [], "it waits for rank 0's word"
    said = first.step()
    second.take(said)
    assert first.admissible() == second.admissible() == [first.waiting_queue[0].rid]


def test_who_came_after_rank_0_had_decided_waits_for_its_next_word() -> None:
    rank = Rank()
    rank.away(0.05)
    first = rank.queue(None, OTHER)
    said = rounds.polled([], rank)
    second = rank.queue(None, OTHER)
    rank.take(said)
    assert rank.admissible() == []
    rank.step()
    assert rank.admissible() == []
    assert getattr(rank, return_order.ORDERING).held == {first.rid, second.rid}


def test_ranks_that_wait_for_each_other_are_not_held_up(monkeypatch: pytest.MonkeyPatch) -> None:
    rank = Rank()
    rank.away(0.05)
    rank.queue(None, OTHER)
    slept: list[float] = []
    monkeypatch.setattr(return_order, "time", SimpleNamespace(sleep=slept.append))
    assert (rank.admissible(), len(slept)) == ([], 1)
    rank.require_mlp_sync = True
    assert (rank.admissible(), len(slept)) == ([], 1)


def test_without_a_keeper_nobody_waits() -> None:
    rank = Rank()
    rank.away(0.05)
    req = rank.queue(None, OTHER)
    rank.world.retention.keeper = None
    rank.step()
    assert rank.admissible() == [req.rid]


def test_a_request_that_was_called_off_is_forgotten() -> None:
    rank = Rank()
    rank.away(0.05)
    req = rank.queue(None, OTHER)
    rank.waiting_queue.remove(req)
    rank.admissible()
    assert not getattr(rank, return_order.ORDERING).held
