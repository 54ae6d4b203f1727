"""Mined patterns over the events of a running server."""

import json
import random
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec
import pytest
from recorded import lookups

from sglang_paste.calls import DEFAULT_TENANT, SessionId, ToolCall
from sglang_paste.events import (
    CallLikely,
    CallNamed,
    CallOpened,
    CallPartial,
    Event,
    MessageAdded,
    SessionEnded,
    ToolReturned,
    TurnEnded,
    TurnStarted,
)
from sglang_paste.mine.learn import Miner
from sglang_paste.mine.records import Call, Result, Session, Turn
from sglang_paste.predict import Candidate, Predictors, RunTime, ToolShape, patternfile
from sglang_paste.predict.live import LivePredictor, Trust
from sglang_paste.predict.mined import Mined
from sglang_paste.predict.patterns import Patterns

TOOLS = ("find_order", "find_customer")


@pytest.fixture(scope="module")
def patterns() -> Patterns:
    miner = Miner()
    for number in range(40):
        miner.add(lookups("shop", number))
    return miner.finish()


@pytest.fixture(scope="module")
def mined(patterns: Patterns) -> Mined:
    return Mined(patterns)


class House:
    """A predictor with a clock, and one session's events."""

    def __init__(self, mined: Mined, **shapes: ToolShape) -> None:
        self.now = 0.0
        self.predictor = LivePredictor(
            mined, lambda tenant, tool: RunTime(p50=1.0, p90=2.0), shapes, clock=lambda: self.now
        )

    def say(self, kind: type[Event], **fields: Any) -> list[Candidate]:
        head = {"tenant": DEFAULT_TENANT, "session": SessionId("s"), "request": "r", "position": 0, "time": self.now}
        return self.predictor.observe(kind(**head, **fields))

    def ask(self, text: str, tools: tuple[str, ...] = TOOLS) -> list[Candidate]:
        self.say(MessageAdded, role="user", content=text)
        return self.say(TurnStarted, prompt_tokens=1, tools=tools)

    def made(self, tool: str, arguments: dict[str, Any], result: dict[str, Any]) -> list[Candidate]:
        call = ToolCall(tenant=DEFAULT_TENANT, session=SessionId("s"), tool=tool, arguments=arguments)
        return self.predictor.confirm(call, json.dumps(result), 1.0, ok=True)


def question(order: str) -> str:
    return f"please tell me all about {order} in words of your own"


def test_candidates_follow_what_was_said_and_what_came_back(mined: Mined) -> None:
    house = House(mined)
    first = house.ask(question("order-0500"))[0]
    assert (first.tool, first.arguments, first.source) == ("find_order", {"order": "order-0500"}, "mined")
    assert first.probability > 0.5
    assert first.claimed_in == pytest.approx(2.0)
    house.now = 1.5
    second = house.made(first.tool, first.arguments, {"order": "order-0500", "customer": "customer-321"})[0]
    assert (second.tool, second.arguments) == ("find_customer", {"customer": "customer-321"})
    # The turn took 1.5 s to its call, so the next may, too.
    later = house.ask("", TOOLS)[0]
    assert later.claimed_in == pytest.approx(1.5)
    assert house.say(SessionEnded) == []


def test_a_named_tool_and_the_tools_on_offer_narrow_the_choice(mined: Mined) -> None:
    house = House(mined)
    assert {candidate.tool for candidate in house.ask(question("order-0500"), ("find_order",))} == {"find_order"}
    following = house.made("find_order", {"order": "order-0500"}, {"order": "order-0500", "customer": "customer-321"})
    assert following[0].tool == "find_customer", "the next turn may offer other tools"
    house = House(mined)
    house.ask(question("order-0500"), ("find_order",))
    named = house.say(CallNamed, index=0, tool="find_order")[0]
    assert (named.arguments, named.claimed_in) == ({"order": "order-0500"}, pytest.approx(0.3))


def test_a_call_is_asked_for_as_late_as_calls_are_whether_its_turn_has_begun_or_not(mined: Mined) -> None:
    house = House(mined)
    for _ in range(3):
        house.ask(question("order-0500"))
        house.now += 4.0
        made = house.made("find_order", {"order": "order-0500"}, {"order": "order-0500", "customer": "customer-321"})
        assert made[0].claimed_in == pytest.approx(4.0), "its turn is still to come"
        house.now += 10.0
    assert house.say(TurnStarted, prompt_tokens=1, tools=TOOLS)[0].claimed_in == pytest.approx(4.0)
    house.now += 1.5
    assert house.say(CallOpened, index=0, said="so")[0].claimed_in == pytest.approx(2.5)


def test_a_promise_that_is_kept_as_often_as_it_says_keeps_its_worth() -> None:
    chance, trust, worth = random.Random(0), Trust(), []
    for _ in range(5000):
        worth.append(trust.factor)
        trust.learn(0.1, chance.random() < 0.1)
    assert fmean(worth) > 0.9


def test_what_is_said_before_a_call_counts_until_the_turn_ends() -> None:
    miner = Miner()
    for number in range(150):
        files = [f"src/{number * n % 1009:04}.py" for n in (7919, 104729, 1299709)]
        chosen = files[number * 31 % 7 % 3]
        asked = Turn("user", f"Look at {files[0]}, {files[1]} or {files[2]}.")
        made = Turn("assistant", f"I open {chosen}", (Call("read", {"path": chosen}),))
        miner.add(Session("chat", f"{number}", f"{number}", (asked, made)))
    house = House(Mined(miner.finish()))
    silent = house.ask("Look at src/a1.py, src/b2.py or src/c3.py.", ("read",))
    assert silent[0].probability < 0.6
    assert house.say(CallOpened, index=0) == [], "nothing was said"
    best, *_ = house.say(CallOpened, index=0, said="I open src/b2.py")
    assert (best.arguments, best.probability > 0.6) == ({"path": "src/b2.py"}, True)
    assert house.say(CallNamed, index=0, tool="read")[0].arguments == {"path": "src/b2.py"}
    again = house.say(TurnStarted, prompt_tokens=1, tools=("read",))
    assert [each.probability for each in again] == [each.probability for each in silent], "another turn"


def test_arguments_that_are_there_narrow_the_rest() -> None:
    miner = Miner()
    for number in range(60):
        file, other = f"src/{number * 7919 % 1000:03}.py", f"lib/{number * 104729 % 1000:03}.py"
        made = Call("compare", {"old": file, "new": other})
        asked = Turn("user", f"What changed from {file} to {other}?")
        miner.add(Session("chat", f"{number}", f"{number}", (asked, Turn("assistant", "", (made,)))))
    house = House(Mined(miner.finish()))
    house.ask("What changed from src/b2.py to lib/c3.py?", ("compare",))
    for event in (CallPartial, CallLikely):
        best, *_ = house.say(event, index=0, tool="compare", arguments='{"old": "src/unheard-of.py"}')
        assert best.arguments == {"old": "src/unheard-of.py", "new": "lib/c3.py"}
        assert best.claimed_in == pytest.approx(0.3)
        whole = '{"old": "src/b2.py", "new": "lib/c3.py"}'
        assert house.say(event, index=0, tool="compare", arguments=whole) == [], "nothing is left to say"
        assert house.say(event, index=0, tool="compare", arguments="{") == []


def test_what_does_not_need_a_result_is_foreseen_before_it_is_there() -> None:
    miner = Miner()
    for number in range(60):
        files = [f"src/{number * n % 1009:04}.py" for n in (7919, 104729, 1299709)]
        turns = [Turn("user", f"Look at {files[0]}, {files[1]} and {files[2]}.")]
        for file in files:
            turns += [
                Turn("assistant", "", (Call("read", {"path": file}),)),
                Turn("tool", tool_results=(Result("read", "x"),)),
            ]
        miner.add(Session("chat", f"{number}", f"{number}", tuple(turns)))
    house = House(Mined(miner.finish()))
    house.ask("Look at src/a1.py, src/b2.py and src/c3.py.", ("read",))
    calls = [
        ToolCall(tenant=DEFAULT_TENANT, session=SessionId("s"), tool="read", arguments={"path": f"src/{name}.py"})
        for name in ("a1", "b2", "c3")
    ]
    best, *_ = house.predictor.under_way(calls[0])
    assert (best.arguments, best.claimed_in) == (calls[1].arguments, pytest.approx(1.0 + 2.0))
    after, *_ = house.predictor.foresee(calls[1], "x", best.probability, best.claimed_in)
    assert after.arguments == calls[2].arguments, "the branch on which the first call is made goes on"
    again = house.say(TurnStarted, prompt_tokens=1, tools=("read",))
    assert again[0].arguments == calls[0].arguments, "the session itself has not seen the call"
    assert house.predictor.under_way(msgspec.structs.replace(calls[0], session=None)) == []


def test_a_result_of_the_clients_own_counts_and_a_known_one_not_twice(mined: Mined) -> None:
    result = {"order": "order-0500", "customer": "customer-321"}
    returned = {
        "tool": "find_order",
        "call_id": "c",
        "arguments": '{"order": "order-0500"}',
        "content": json.dumps(result),
    }
    house = House(mined)
    house.ask(question("order-0500"))
    house.say(ToolReturned, **returned)
    assert house.ask("")[0].arguments == {"customer": "customer-321"}
    house.made("find_customer", {"customer": "customer-321"}, {"customer": "customer-321", "name": "A. B."})
    calls = len(house.predictor._use((DEFAULT_TENANT, SessionId("s"))).mined.state.calls)
    house.say(ToolReturned, tool="find_customer", call_id="d", arguments='{"customer": "customer-321"}', content="{}")
    assert len(house.predictor._use((DEFAULT_TENANT, SessionId("s"))).mined.state.calls) == calls == 2


def test_broken_promises_lower_the_probability_within_a_few_calls(mined: Mined) -> None:
    house = House(mined)
    before = house.ask(question("order-0500"))[0].probability
    for _ in range(4):
        house.made("find_order", {"order": "another"}, {})
        after = house.ask(question("order-0500"))[0].probability
    assert after < before / 2
    for _ in range(8):
        house.made("find_order", {"order": "order-0500"}, {})
        again = house.ask(question("order-0500"))[0].probability
    assert again > after


def test_inert_arguments_are_left_out_and_do_not_count(mined: Mined) -> None:
    house = House(mined, find_order=ToolShape(arguments=("order",), inert=("order",)))
    assert [candidate.arguments for candidate in house.ask(question("order-0500"))[:1]] == [{}]


def test_what_a_result_leads_to_is_foreseen_over_several_calls(mined: Mined) -> None:
    house = House(mined)
    first = house.ask(question("order-0500"))[0]
    call = ToolCall(tenant=DEFAULT_TENANT, session=SessionId("s"), tool=first.tool, arguments=first.arguments)
    content = '{"order": "order-0500", "customer": "customer-321"}'
    ahead = house.predictor.foresee(call, content, first.probability, first.claimed_in)[0]
    assert (ahead.tool, ahead.arguments) == ("find_customer", {"customer": "customer-321"})
    assert ahead.probability <= first.probability
    assert ahead.claimed_in > first.claimed_in
    following = ToolCall(tenant=DEFAULT_TENANT, session=SessionId("s"), tool=ahead.tool, arguments=ahead.arguments)
    house.predictor.foresee(following, "{}", ahead.probability, ahead.claimed_in)
    # The session itself has not moved.
    assert house.say(TurnStarted, prompt_tokens=1, tools=TOOLS)[0].arguments == first.arguments


def test_a_task_that_was_done_is_known_again() -> None:
    """Nothing says which drawer it is, but it is the same one whenever the question is the same."""
    miner = Miner()
    for number in range(60):
        task = number % 20
        call = Call("open", {"drawer": f"drawer-{task * 7919 % 1000}"})
        turns = (
            Turn("user", f"where is thing {task}"),
            Turn("assistant", "", (call,)),
            Turn("tool", tool_results=(Result("open", "found"),)),
            Turn("assistant", "There."),
        )
        miner.add(Session("house", str(number), f"thing {task}", turns))
    house = House(Mined(miner.finish()))
    drawer = {"drawer": "drawer-of-its-own"}
    for known in (False, True):
        offered = house.ask("where is thing 77", ("open",))
        assert any(candidate.arguments == drawer and candidate.probability > 0.3 for candidate in offered) is known
        house.made("open", drawer, {})
        house.say(TurnEnded, reason="stop", calls=0)
        house.say(SessionEnded)


def test_the_patterns_of_a_tenant_serve_no_other(patterns: Patterns) -> None:
    patterns = msgspec.structs.replace(patterns, tenant="acme")
    assert House(Mined(patterns)).ask(question("order-0500")) == []
    assert House(Mined(msgspec.structs.replace(patterns, tenant="default"))).ask(question("order-0500"))


def test_mined_patterns_are_heard_among_the_predictors(patterns: Patterns, tmp_path: Path) -> None:
    file = tmp_path / "patterns"
    patternfile.save(file, patterns)
    predictors = Predictors(None, patterns=str(file))
    head = {"tenant": DEFAULT_TENANT, "session": SessionId("s"), "request": "r", "position": 0, "time": 0.0}
    predictors.observe(MessageAdded(**head, role="user", content=question("order-0500")))
    [best, *_] = predictors.observe(TurnStarted(**head, prompt_tokens=1, tools=TOOLS))
    assert best.arguments == {"order": "order-0500"}
    predictors.close()
