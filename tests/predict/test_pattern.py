import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_paste.calls import DEFAULT_TENANT, SessionId, TenantId, ToolCall
from sglang_paste.events import CallNamed, Event, SessionEnded, ToolReturned, TurnEnded, TurnStarted
from sglang_paste.predict.base import Candidate, RunTime, ToolShape
from sglang_paste.predict.follow import MAX_ARGUMENTS, MAX_FORMS, MAX_TOOLS, MAX_WAYS, Context
from sglang_paste.predict.learn import Bounded
from sglang_paste.predict.pattern import MAX_OFFERS, ContextKey, PatternPredictor

RUN = RunTime(p50=1.0, p90=2.0)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def predictor(clock: Callable[[], float] | None = None, **more: Any) -> PatternPredictor:
    return PatternPredictor(lambda tenant, tool: RUN, clock=clock or Clock(), **more)


def call(tool: str, arguments: dict[str, Any], session: str = "s", tenant: str = DEFAULT_TENANT) -> ToolCall:
    return ToolCall(tenant=TenantId(tenant), session=SessionId(session), tool=tool, arguments=arguments)


def said(session: str = "s", tenant: str = DEFAULT_TENANT, time: float = 100.0) -> dict[str, Any]:
    return {"tenant": TenantId(tenant), "session": SessionId(session), "request": "r", "position": 0, "time": time}


def ended(session: str = "s", calls: int = 0) -> TurnEnded:
    return TurnEnded(**said(session), reason="stop" if calls == 0 else "tool_calls", calls=calls)


def search(at: int) -> tuple[ToolCall, str]:
    return call("search", {"query": f"q{at}"}), json.dumps({"hits": [{"file": f"src/{at}.py"}, {"file": "other"}]})


def best(found: list[Candidate], tool: str) -> Candidate:
    return max((one for one in found if one.tool == tool), key=lambda one: one.probability)


def taught(rounds: int, **more: Any) -> PatternPredictor:
    """A search is followed by reading the first file it found."""
    learner = predictor(**more)
    for at in range(rounds):
        asked, content = search(at)
        learner.confirm(asked, content, 0.1, ok=True)
        learner.confirm(call("read", {"path": f"src/{at}.py", "limit": 40}), "text", 0.1, ok=True)
        learner.observe(ended())
    return learner


def test_what_followed_before_is_offered_with_copied_arguments() -> None:
    asked, content = search(99)
    found = best(taught(4).confirm(asked, content, 0.1, ok=True), "read")
    assert found.arguments == {"path": "src/99.py", "limit": 40}
    assert found.probability > 0.5
    assert (found.run_time, found.source, found.session) == (RUN, "pattern", "s")


def test_one_example_is_enough_to_offer() -> None:
    asked, content = search(99)
    assert best(taught(1).confirm(asked, content, 0.1, ok=True), "read").probability > 0.2


def test_a_named_tool_makes_it_surer() -> None:
    learner = taught(3)
    for at in range(3):
        learner.confirm(*search(at), 0.1, ok=True)
        learner.confirm(call("ls", {}), "", 0.1, ok=True)
    asked, content = search(99)
    before = best(learner.confirm(asked, content, 0.1, ok=True), "read")
    named = learner.observe(CallNamed(**said(), index=0, tool="read"))
    assert [one.tool for one in named] == ["read"]
    assert named[0].probability > before.probability
    assert named[0].claimed_in <= before.claimed_in
    assert learner.observe(CallNamed(**said(), index=0, tool="never seen")) == []


def test_success_is_part_of_the_context() -> None:
    learner = predictor()
    for _ in range(6):
        learner.confirm(call("test", {}), "", 0.1, ok=True)
        learner.confirm(call("commit", {}), "", 0.1, ok=True)
        learner.confirm(call("test", {}), "", 0.1, ok=False)
        learner.confirm(call("edit", {}), "", 0.1, ok=True)
    assert max(learner.confirm(call("test", {}), "", 0.1, ok=False), key=lambda one: one.probability).tool == "edit"


def test_an_unknown_context_backs_off_to_all_calls() -> None:
    found = taught(4).confirm(call("never seen", {}), "", 0.1, ok=True)
    assert {one.tool for one in found} >= {"search"} or {one.tool for one in found} >= {"read"}


@pytest.mark.parametrize("rounds", [1, 3, 10, 60])
def test_wrong_predictions_lower_the_probability_within_a_few_calls(rounds: int) -> None:
    learner = taught(rounds)
    for wrong in range(6):
        learner.confirm(*search(wrong), 0.1, ok=True)
        learner.confirm(call("write", {"path": "new.py"}), "", 0.1, ok=True)
        learner.observe(ended())
    found = learner.confirm(*search(99), 0.1, ok=True)
    assert all(one.probability < 0.2 for one in found if one.tool == "read")


def test_wrong_arguments_lower_it_as_well() -> None:
    learner = taught(20)
    for at in range(6):
        learner.confirm(*search(at), 0.1, ok=True)
        learner.confirm(call("read", {"path": f"unforeseen {at}", "limit": 40}), "", 0.1, ok=True)
        learner.observe(ended())
    found = learner.confirm(*search(99), 0.1, ok=True)
    assert best(found, "read").probability < 0.2


def test_a_session_that_asks_for_nothing_counts_too() -> None:
    learner = taught(20)
    for _ in range(6):
        learner.confirm(*search(1), 0.1, ok=True)
        learner.observe(ended())
    assert all(one.probability < 0.2 for one in learner.confirm(*search(2), 0.1, ok=True))


def test_arguments_of_an_earlier_call_are_found_again() -> None:
    learner = predictor()
    for at in range(5):
        learner.confirm(call("edit", {"path": f"f{at}.py", "text": f"new {at}"}), "done", 0.1, ok=True)
        learner.confirm(call("lint", {"path": f"f{at}.py"}), "clean", 0.1, ok=True)
    found = learner.confirm(call("edit", {"path": "g.py", "text": "x"}), "done", 0.1, ok=True)
    assert best(found, "lint").arguments == {"path": "g.py"}


def test_inert_arguments_do_not_make_a_prediction_wrong() -> None:
    def after(shapes: dict[str, ToolShape]) -> float:
        learner = predictor(shapes=shapes)
        for at in range(12):
            learner.confirm(call("build", {}), "", 0.1, ok=True)
            learner.confirm(call("test", {"why": f"reason {at}", "all": True}), "", 0.1, ok=True)
            learner.observe(ended())
        found = [one.probability for one in learner.confirm(call("build", {}), "", 0.1, ok=True) if one.tool == "test"]
        return max(found, default=0.0)

    assert after({"test": ToolShape(("why", "all"), inert=("why",))}) > 0.5
    assert after({}) < 0.2


def test_a_result_of_the_client_s_own_tool_is_learned_once() -> None:
    learner = predictor()
    back = {"call_id": "c", "content": '{"file": "a.py"}'}
    for at in range(4):
        arguments = json.dumps({"n": at})
        learner.observe(ToolReturned(**said(time=100.0 + at), tool="ask_user", arguments=arguments, **back))
        made = call("read", {"path": "a.py"})
        learner.confirm(made, "text", 0.1, ok=True)
        learner.observe(ToolReturned(**said(), tool="read", arguments='{"path":"a.py"}', call_id="d", content="text"))
        learner.observe(ended())
    found = learner.observe(ToolReturned(**said(), tool="ask_user", arguments='{"n":9}', **back))
    assert best(found, "read").arguments == {"path": "a.py"}
    again = learner.observe(ToolReturned(**said(), tool="odd", arguments="not json", call_id="c", content=""))
    assert again == []


def test_the_expected_time_is_learned() -> None:
    clock = Clock()
    learner = predictor(clock)
    for at in range(8):
        learner.confirm(*search(at), 0.1, ok=True)
        clock.now += 5.0
        learner.confirm(call("read", {"path": "x"}), "", 0.1, ok=True, asked=clock.now - 1.0)
        learner.observe(ended())
    found = learner.confirm(*search(9), 0.1, ok=True)
    assert best(found, "read").claimed_in == pytest.approx(4.0)
    started = TurnStarted(**said(time=clock.now + 3.0), prompt_tokens=1, tools=())
    assert best(learner.observe(started), "read").claimed_in == pytest.approx(1.0)


def test_calls_without_a_session_or_with_bad_arguments_teach_nothing() -> None:
    learner = predictor()
    lost = ToolCall(tenant=DEFAULT_TENANT, tool="a", arguments={})
    assert learner.confirm(lost, "", 0.1, ok=True) == []
    assert learner.confirm(call("a", {"x": float("nan")}), "", 0.1, ok=True) == []
    assert learner.observe(TurnStarted(**said(), prompt_tokens=1, tools=())) == []


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["t1", "t2"]),
        st.sampled_from(["s1", "s2"]),
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from(["x", "y", "zebra"]),
        st.sampled_from(['{"v": "zebra"}', "line one\nline two", "", "[1, 2.0, true]"]),
        st.sampled_from(["confirm", "returned", "start", "named", "rest", "close"]),
    ),
    max_size=40,
)
Step = tuple[str, str, str, str, str, str]


def play(learner: PatternPredictor, steps: list[Step], marked: bool = False) -> list[list[Candidate]]:
    """What is offered after each step; `marked` puts the tenant's name into every value it sees."""
    answers = []
    for at, (tenant, session, tool, value, content, kind) in enumerate(steps):
        value, content = (f"{tenant} {value}", f"{tenant}\n{content}") if marked else (value, content)
        event: Event | None = None
        common = said(session, tenant, 100.0 + at)
        if kind == "returned":
            event = ToolReturned(**common, tool=tool, arguments=json.dumps({"v": value}), call_id="c", content=content)
        elif kind == "start":
            event = TurnStarted(**common, prompt_tokens=1, tools=())
        elif kind == "named":
            event = CallNamed(**common, index=0, tool=tool)
        elif kind == "rest":
            event = TurnEnded(**common, reason="stop", calls=0)
        elif kind == "close":
            event = SessionEnded(**common)
        if event is None:
            answers.append(learner.confirm(call(tool, {"v": value}, session, tenant), content, 0.1, ok=True))
        else:
            answers.append(learner.observe(event))
    return answers


@settings(deadline=None)
@given(STEPS)
def test_probabilities_are_inside_zero_and_one_and_offers_few(steps: list[Step]) -> None:
    for found in play(predictor(), steps):
        assert len(found) <= MAX_OFFERS
        assert all(0.0 < one.probability < 1.0 and one.claimed_in >= 0.0 for one in found)


@settings(deadline=None)
@given(STEPS, st.integers(0, 40))
def test_candidates_are_causal(steps: list[Step], cut: int) -> None:
    assert play(predictor(), steps)[:cut] == play(predictor(), steps[:cut])


def leaks(learner: PatternPredictor, steps: list[Step]) -> bool:
    """Whether a tenant is ever offered what only another one could have taught."""
    answers = play(learner, steps, marked=True)
    foreign = any(
        one.tenant != step[0] or not str(one.arguments["v"]).startswith(f"{step[0]} ")
        for step, found in zip(steps, answers, strict=True)
        for one in found
        if one.arguments["v"] in {f"{tenant} {value}" for tenant in ("t1", "t2") for value in ("x", "y", "zebra")}
    )
    alone = [step for step in steps if step[0] == "t1"]
    kept = [found for step, found in zip(steps, answers, strict=True) if step[0] == "t1"]
    quiet = [[(one.tool, one.arguments, one.probability) for one in found] for found in kept]
    return foreign or quiet != [
        [(one.tool, one.arguments, one.probability) for one in found] for found in play(predictor(), alone, marked=True)
    ]


@settings(deadline=None)
@given(STEPS)
def test_nothing_crosses_tenants(steps: list[Step]) -> None:
    assert not leaks(predictor(), steps)


class Shared(Bounded[ContextKey, Context]):
    """One tenant's contexts for all: what must be caught."""

    def get(self, key: ContextKey) -> Context | None:
        return super().get((DEFAULT_TENANT, key[1]))

    def use(self, key: ContextKey, make: Callable[[], Context]) -> Context:
        return super().use((DEFAULT_TENANT, key[1]), make)


def test_a_predictor_that_shares_its_contexts_is_caught() -> None:
    steps: list[Step] = [("t2", "s1", tool, "x", "", "confirm") for tool in "abab"]
    steps.append(("t1", "s2", "a", "y", "", "confirm"))
    assert leaks(predictor(contexts=Shared(100)), steps)
    assert not leaks(predictor(), steps)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_held_is_bounded(seed: int) -> None:
    source = random.Random(seed)
    contexts: Bounded[ContextKey, Context] = Bounded(20)
    learner = predictor(contexts=contexts)
    for _ in range(150):
        names = source.sample([f"n{at}" for at in range(30)], source.randrange(15))
        arguments = {name: source.randrange(100) for name in names}
        made = call(f"tool {source.randrange(40)}", arguments, f"s{source.randrange(50)}")
        learner.confirm(made, json.dumps(list(range(100))), 0.1, ok=True)
    assert len(contexts) <= 20
    for key in contexts:
        context = contexts.get(key)
        assert context is not None
        assert len(context.follows) <= MAX_TOOLS
        for follow in context.follows.values():
            assert len(follow.forms) <= MAX_FORMS
            for form in follow.forms:
                assert len(form.slots) <= MAX_ARGUMENTS
                assert all(len(slot.ways) <= MAX_WAYS for slot in form.slots.values())


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_probability_of_a_known_habit_is_right(rate: float) -> None:
    source, learner, total, rounds = random.Random(5), predictor(), 0.0, 2000
    for at in range(rounds):
        found = learner.confirm(*search(at), 0.1, ok=True)
        total += max((one.probability for one in found if one.tool == "read"), default=0.0)
        path = f"src/{at}.py" if source.random() < rate else f"unforeseen {at}"
        learner.confirm(call("read", {"path": path}), "", 0.1, ok=True)
        learner.observe(ended())
    assert total / rounds == pytest.approx(rate, abs=0.05)
