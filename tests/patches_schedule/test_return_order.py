"""Rank 0 says in which order those who wait go on, and every rank has it so."""

import time
import warnings
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from sglang_paste.calls import DEFAULT_TENANT, SessionId
from sglang_paste.config import Settings
from sglang_paste.events import Expect
from sglang_paste.patches import arm, bus
from sglang_paste.schedule.book import Book
from sglang_paste.schedule.holds import Whose
from sglang_paste.wire.memory import MemorySide

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from sglang.srt.managers.schedule_policy import CacheAgnosticPolicy, CacheAwarePolicy
    from sglang.utils import TypeBasedDispatcher

    from sglang_paste.patches import intake, rounds
    from sglang_paste.patches.retention import ATTRIBUTE, Place
    from sglang_paste.patches.return_order import Order

pytestmark = pytest.mark.host


class Rank:
    """The parts of a scheduler that the hooks look at."""

    def __init__(self, requests: list[Any]) -> None:
        self.waiting_queue = list(requests)
        self.policy = SimpleNamespace(policy=CacheAgnosticPolicy.FCFS)
        self.enable_priority_scheduling = False
        self.max_total_num_tokens = 10_000
        self.max_running_requests = 4
        self.metrics_reporter = SimpleNamespace(last_input_throughput=1000.0, last_gen_throughput=0.0)
        self.running_batch = SimpleNamespace(reqs=[None])
        self._request_dispatcher = TypeBasedDispatcher([])
        self.tree_cache = SimpleNamespace()
        rounds.dispatching(None, self)

    def step(self) -> list[Any]:
        """What the rank that decides says at the beginning of an iteration."""
        return rounds.polled([], self) or []

    def take(self, messages: list[Any]) -> list[str]:
        """The ids of the queue after an iteration's messages."""
        for message in messages:
            self._request_dispatcher(message)
        return [req.rid for req in self.waiting_queue]


@pytest.fixture(autouse=True)
def process() -> Any:
    settings = Settings(tool_config=None, gateway_host="", gateway_port=0, run_dir="", state_dir="", return_bound=5.0)
    side = MemorySide()
    bus.use(bus.BusSink("scheduler", side.connect("scheduler")))
    with mock.patch.object(arm, "_held", settings), mock.patch.object(intake, "_scheduler", None):
        yield
    bus.use(None)
    side.close()


def waiting(rid: str, waited: float, session: str = "", book: Book | None = None) -> Any:
    req = SimpleNamespace(
        rid=rid,
        origin_input_ids=[0] * 1000,
        output_ids=[],
        sampling_params=SimpleNamespace(max_new_tokens=64),
        time_stats=SimpleNamespace(wait_queue_entry_time=time.perf_counter() - waited),
    )
    if book is not None:
        holds = SimpleNamespace(wanted_by=lambda rid: [SimpleNamespace(tokens=900, node=1)])
        retention: Any = SimpleNamespace(holds=holds, keeper=SimpleNamespace(book=book))
        setattr(req, ATTRIBUTE, Place(retention, Whose(DEFAULT_TENANT, SessionId(session)), ahead=False))
    return req


def expecting(session: str) -> Book:
    """A book in which the session's next call has likely been run, and takes long."""
    book, whose = Book(), Whose(DEFAULT_TENANT, SessionId(session))
    book.began("before", whose, 0.0)
    expect = Expect(
        tenant=DEFAULT_TENANT,
        session=SessionId(session),
        time=1.0,
        p50=0.0,
        p90=0.0,
        hit_probability=0.8,
        tool_seconds=20.0,
    )
    book.direct([expect])
    return book


def test_a_session_whose_next_call_is_there_goes_first_on_every_rank() -> None:
    requests = [waiting("a", 1.0), waiting("b", 0.5), waiting("c", 0.1, "s", expecting("s"))]
    first, second = Rank(requests), Rank(requests)
    messages = first.step()
    assert messages == [Order(("c", "a", "b"))]
    assert first.take(messages) == second.take(messages) == ["c", "a", "b"]


def test_those_who_waited_for_long_go_first() -> None:
    rank = Rank([waiting("new", 0.1, "s", expecting("s")), waiting("old", 6.0), waiting("older", 7.0)])
    assert rank.take(rank.step()) == ["older", "old", "new"]


def test_what_came_meanwhile_stands_at_the_end() -> None:
    rank = Rank([waiting("a", 1.0), waiting("c", 0.1, "s", expecting("s"))])
    messages = rank.step()
    rank.waiting_queue.append(waiting("d", 0.0))
    assert rank.take(messages) == ["c", "a", "d"]


def test_an_order_that_somebody_chose_is_left_alone() -> None:
    requests = [waiting("a", 1.0), waiting("c", 0.1, "s", expecting("s"))]
    rank = Rank(requests)
    rank.policy.policy = CacheAwarePolicy.LPM
    assert rank.step() == []
    rank = Rank(requests)
    rank.enable_priority_scheduling = True
    assert rank.step() == []
    assert Rank(requests[:1]).step() == []


def test_what_came_by_itself_stays_and_is_looked_at_once_in_a_while() -> None:
    rank = Rank([waiting("a", 1.0), waiting("c", 0.1, "s", expecting("s"))])
    abort = SimpleNamespace(rid="late")
    assert rounds.polled([abort], rank) == [abort, Order(("c", "a"))]
    assert rank.step() == []
    assert Rank(rank.waiting_queue).step() == [Order(("c", "a"))]


def test_the_side_process_hears_how_loaded_the_engine_is() -> None:
    Rank([]).step()
    assert bus.sink("scheduler").load == 0.25
    Rank([waiting("a", 1.0)]).step()
    assert bus.sink("scheduler").load == 1.0
