"""What the engine is told of a session's way back."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from side_house import READ, WRITE, FakeTools, House, answer, arguments, check, house, until
from side_house import SESSION as HOME
from side_house import candidate as sure

from sglang_paste.calls import DEFAULT_TENANT, SessionId
from sglang_paste.events import CallLikely, CallReady, EngineDirective, Expect, Ping, Release, Warm
from sglang_paste.predict.base import Candidate, RunTime
from sglang_paste.speculate import outlook
from sglang_paste.speculate.outlook import Outlook

SESSION = SessionId("s")
TIME = RunTime(p50=2.0, p90=10.0)


class Heard:
    def __init__(self) -> None:
        self.now = 0.0
        self.told: list[EngineDirective] = []
        self.outlook = Outlook(self.tell, lambda: self.now)

    def tell(self, directives: Sequence[EngineDirective]) -> None:
        self.told += directives

    def last(self) -> Expect:
        found = self.told[-1]
        assert isinstance(found, Expect)
        return found


def candidate(probability: float, seconds: float) -> Candidate:
    return Candidate(
        tenant=DEFAULT_TENANT,
        session=SESSION,
        tool="t",
        arguments={},
        probability=probability,
        run_time=RunTime(p50=seconds, p90=seconds),
        claimed_in=1.0,
        source="mined",
    )


def test_the_slowest_tool_under_way_says_when() -> None:
    heard = Heard()
    slow = heard.outlook.began(DEFAULT_TENANT, SESSION, TIME, 0.0)
    assert (heard.last().p50, heard.last().p90) == (2.0, 10.0)
    heard.now = 1.0
    quick = heard.outlook.began(DEFAULT_TENANT, SESSION, RunTime(p50=0.1, p90=0.2), 1.0)
    assert (heard.last().p50, heard.last().p90, heard.last().time) == (1.0, 9.0, 1.0)
    heard.now = 4.0
    heard.outlook.ended(DEFAULT_TENANT, SESSION, quick)
    assert (heard.last().p50, heard.last().p90) == (0.0, 6.0)
    heard.outlook.ended(DEFAULT_TENANT, SESSION, slow)
    assert (heard.last().p50, heard.last().p90) == (0.0, 0.0)
    told = len(heard.told)
    heard.outlook.ended(DEFAULT_TENANT, SESSION, slow)
    assert len(heard.told) == told


def test_a_joined_run_has_come_some_of_its_way() -> None:
    heard = Heard()
    heard.now = 5.0
    heard.outlook.began(DEFAULT_TENANT, SESSION, TIME, 4.0)
    assert (heard.last().p50, heard.last().p90) == (1.0, 9.0)


def test_the_best_of_the_next_calls_is_told_until_the_turn_begins() -> None:
    heard = Heard()
    heard.outlook.next_call(candidate(0.5, 1.0))
    heard.outlook.next_call(candidate(0.2, 1.0))
    heard.outlook.next_call(candidate(0.3, 4.0))
    assert [(each.hit_probability, each.tool_seconds) for each in heard.told if isinstance(each, Expect)] == [
        (0.5, 1.0),
        (0.3, 4.0),
    ]
    heard.outlook.turn_began(DEFAULT_TENANT, SESSION)
    heard.outlook.next_call(candidate(0.2, 1.0))
    assert heard.last().hit_probability == 0.2


def test_results_and_ends_and_what_belongs_to_nobody() -> None:
    heard = Heard()
    heard.outlook.known(DEFAULT_TENANT, SESSION, ("r", 1), "content")
    heard.outlook.known(DEFAULT_TENANT, SESSION, None, "content")
    assert heard.outlook.began(DEFAULT_TENANT, None, TIME, 0.0) == 0
    heard.outlook.ended(DEFAULT_TENANT, None, 0)
    heard.outlook.gone(DEFAULT_TENANT, SESSION)
    warm, release = heard.told
    assert isinstance(warm, Warm)
    assert (warm.request, warm.index, warm.content) == ("r", 1, "content")
    assert isinstance(release, Release)


def test_results_go_nowhere_where_nothing_is_warmed() -> None:
    told: list[EngineDirective] = []
    outlook = Outlook(told.extend, lambda: 0.0, warms=False)
    outlook.known(DEFAULT_TENANT, SESSION, ("r", 0), "content")
    outlook.began(DEFAULT_TENANT, SESSION, TIME, 0.0)
    assert [type(each) for each in told] == [Expect]


def test_sessions_are_bounded() -> None:
    heard = Heard()
    for number in range(outlook.MAX_SESSIONS + 10):
        heard.outlook.began(DEFAULT_TENANT, SessionId(str(number)), TIME, 0.0)
    assert len(heard.outlook._sessions) == outlook.MAX_SESSIONS


def told(home: House, kind: type[Any]) -> list[Any]:
    return [message for message in home.engine.inbox if isinstance(message, kind)]


def test_the_engine_hears_of_results_that_ran_early_and_of_those_that_were_asked_for(tmp_path: Path) -> None:
    async def main() -> None:
        async with house(tmp_path, FakeTools(read=READ, write=WRITE)) as home:
            (await home.early("read", "a")).finish("early")
            await home.heard()
            [first] = told(home, Warm)
            assert (first.request, first.index, first.content) == ("r1", 0, "early")
            home.ready("write", "b")
            await home.heard()
            ticket = home.call("write", "b", session=HOME)
            run = await home.run(1)
            assert told(home, Expect)[-1].p90 > 0
            run.finish("late")
            await answer(ticket)
            assert told(home, Expect)[-1].p90 == 0
            assert (told(home, Warm)[-1].index, told(home, Warm)[-1].content) == (1, "late")

    check(main)


def test_a_result_of_a_call_that_was_not_made_is_nobodys(tmp_path: Path) -> None:
    async def main() -> None:
        async with house(tmp_path, FakeTools(read=READ)) as home:
            home.say(CallLikely, index=0, tool="read", arguments=arguments("a"))
            home.say(CallReady, index=1, tool="read", arguments=arguments("b"))
            (await home.run(0)).finish("b")
            await home.heard()
            ticket = home.call("read", "c", session=HOME)
            (await home.run(1)).finish("c")
            await answer(ticket)
            assert [each.index for each in told(home, Warm)] == [1]

    check(main)


def test_a_busy_engine_makes_early_runs_dearer(tmp_path: Path) -> None:
    async def main() -> None:
        async with house(tmp_path, FakeTools(read=READ)) as home:
            engine = home.bus.connect("scheduler")
            engine.send([Ping(sender="scheduler", time=1.0, load=1.0)])
            await until(lambda: home.service._early.engine_load or None)
            soon = msgspec.structs.replace(sure("read", arguments("a")), probability=0.4, claimed_in=0.1)
            home.service._early.offer([soon])
            assert home.tools.runs == []
            engine.send([Ping(sender="scheduler", time=2.0, load=0.0)])
            assert (await home.run(0)).call.arguments == {"path": "a"}

    check(main)
