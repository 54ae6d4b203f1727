import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_paste.calls import DEFAULT_TENANT, SessionId, TenantId, ToolCall
from sglang_paste.events import CallAborted, CallLikely, CallReady, SessionEnded, TurnEnded, TurnStarted
from sglang_paste.predict.base import Candidate, ToolShape
from sglang_paste.predict.learn import Bounded
from sglang_paste.predict.stream import StreamPredictor, ToolKey, ToolRecord

PATH = {"path": "a.py"}
FULL = {"path": "a.py", "limit": 5}


class Turns:
    """Plays turns of one call each against a predictor."""

    def __init__(self, learner: StreamPredictor, session: str = "s", tenant: str = DEFAULT_TENANT) -> None:
        self.learner, self.session, self.tenant = learner, SessionId(session), TenantId(tenant)
        self.time, self.turn = 0.0, 0

    def said(self) -> dict[str, Any]:
        request = f"r{self.turn}"
        return {
            "tenant": self.tenant,
            "session": self.session,
            "request": request,
            "position": 0,
            "time": self.time,
        }

    def start(self) -> None:
        self.turn += 1
        self.learner.observe(TurnStarted(**self.said(), prompt_tokens=1, tools=("read",)))

    def likely(self, arguments: dict[str, Any]) -> Candidate:
        text = json.dumps(arguments)
        return self.learner.observe(CallLikely(**self.said(), index=0, tool="read", arguments=text))[0]

    def ready(self, arguments: dict[str, Any]) -> Candidate:
        text = json.dumps(arguments)
        return self.learner.observe(CallReady(**self.said(), index=0, tool="read", arguments=text))[0]

    def end(self) -> None:
        self.learner.observe(TurnEnded(**self.said(), reason="tool_calls", calls=1))

    def claim(self, arguments: dict[str, Any], asked: float | None = None) -> None:
        made = ToolCall(tenant=self.tenant, session=self.session, tool="read", arguments=arguments)
        assert self.learner.confirm(made, "text", 0.7, ok=True, asked=asked) == []


def unclaimed(turns: Turns, count: int) -> None:
    for _ in range(count):
        turns.start()
        turns.ready(PATH)
        turns.end()


def test_a_ready_call_is_nearly_a_fact() -> None:
    turns = Turns(StreamPredictor())
    turns.start()
    found = turns.ready(PATH)
    assert found.probability > 0.95
    assert (found.tool, found.arguments, found.source) == ("read", PATH, "stream")


def test_calls_that_nobody_claims_become_improbable() -> None:
    turns = Turns(StreamPredictor())
    unclaimed(turns, 8)
    assert turns.ready(PATH).probability < 0.2
    for _ in range(12):
        turns.start()
        turns.ready(PATH)
        turns.claim(PATH)
        turns.end()
    assert turns.ready(PATH).probability > 0.6


def test_claims_keep_it_sure_also_when_they_come_late() -> None:
    turns = Turns(StreamPredictor())
    for _ in range(20):
        turns.start()
        turns.ready(PATH)
        turns.end()
        turns.claim(PATH)
    assert turns.ready(PATH).probability > 0.95


def test_another_call_is_no_claim() -> None:
    turns = Turns(StreamPredictor())
    for _ in range(8):
        turns.start()
        turns.ready(PATH)
        turns.claim(FULL)
        turns.end()
    assert turns.ready(PATH).probability < 0.2


def test_a_session_that_ends_leaves_its_calls_unclaimed() -> None:
    learner = StreamPredictor()
    for at in range(8):
        turns = Turns(learner, f"s{at}")
        turns.start()
        turns.ready(PATH)
        learner.observe(SessionEnded(**turns.said()))
    assert Turns(learner).ready(PATH).probability < 0.2


def test_likely_calls_are_learned_by_what_is_there() -> None:
    turns = Turns(StreamPredictor())
    for _ in range(12):
        turns.start()
        turns.likely(PATH)
        turns.likely(FULL)
        turns.ready(FULL)
        turns.claim(FULL)
        turns.end()
    assert turns.likely(PATH).probability < 0.2
    assert turns.likely(FULL).probability > 0.8


@pytest.mark.parametrize("how", ["aborted", "ended"])
def test_a_likely_call_that_is_cut_off_was_wrong(how: str) -> None:
    turns = Turns(StreamPredictor())
    for _ in range(10):
        turns.start()
        turns.likely(PATH)
        if how == "aborted":
            turns.learner.observe(CallAborted(**turns.said(), index=0, tool="read", reason="length"))
        turns.end()
    assert turns.likely(PATH).probability < 0.2


def test_inert_arguments_do_not_count() -> None:
    turns = Turns(StreamPredictor({"read": ToolShape(("path", "why"), inert=("why",))}))
    first = turns.likely(PATH).probability
    assert first > 0.9
    for at in range(10):
        turns.start()
        turns.likely(PATH)
        turns.ready({**PATH, "why": f"reason {at}"})
        turns.claim({**PATH, "why": f"reason {at}"})
        turns.end()
    assert turns.likely(PATH).probability > first


def test_shapes_that_become_known_later_count() -> None:
    shapes: dict[str, ToolShape] = {}
    turns = Turns(StreamPredictor(shapes))
    shapes["read"] = ToolShape(("path", "why"), inert=("why",))
    assert turns.likely(PATH).probability > 0.9


def test_times_are_learned() -> None:
    turns = Turns(StreamPredictor(clock=lambda: turns.time))
    for _ in range(9):
        turns.start()
        turns.likely(PATH)
        turns.time += 0.5
        turns.ready(PATH)
        turns.time += 2.0
        turns.claim(PATH, asked=turns.time - 0.75)
        turns.end()
    assert turns.ready(PATH).claimed_in == pytest.approx(1.25)
    assert turns.likely(PATH).claimed_in == pytest.approx(1.75)
    assert turns.likely(PATH).run_time.p50 == pytest.approx(0.7)


def test_arguments_that_are_not_json_are_no_candidate() -> None:
    turns = Turns(StreamPredictor())
    for text in ('{"path": "a', "[1]", "null", '{"x": NaN}'):
        ready = CallReady(**turns.said(), index=0, tool="read", arguments=text)
        likely = CallLikely(**turns.said(), index=0, tool="read", arguments=text)
        assert turns.learner.observe(ready) == turns.learner.observe(likely) == []


STEP = st.tuples(
    st.sampled_from(["t1", "t2"]),
    st.sampled_from(["s1", "s2"]),
    st.sampled_from(["start", "likely", "ready", "claim", "end", "abort", "close"]),
    st.sampled_from([PATH, FULL, {}]),
)
Step = tuple[str, str, str, dict[str, Any]]


def play(learner: StreamPredictor, steps: list[Step]) -> list[list[Candidate]]:
    answers = []
    players = {(tenant, session): Turns(learner, session, tenant) for tenant, session, _, _ in steps}
    for at, (tenant, session, kind, arguments) in enumerate(steps):
        turns, found = players[tenant, session], []
        turns.time = float(at)
        if kind in ("likely", "ready"):
            found = [getattr(turns, kind)(arguments)]
        elif kind == "claim":
            turns.claim(arguments, asked=turns.time)
        elif kind == "abort":
            learner.observe(CallAborted(**turns.said(), index=0, tool="read", reason="stop"))
        elif kind == "close":
            learner.observe(SessionEnded(**turns.said()))
        else:
            getattr(turns, kind)()
        answers.append(found)
    return answers


@settings(deadline=None)
@given(st.lists(STEP, max_size=60))
def test_probabilities_are_inside_zero_and_one(steps: list[Step]) -> None:
    for found in play(StreamPredictor(), steps):
        assert all(0.0 < one.probability < 1.0 and one.claimed_in >= 0.0 for one in found)


@settings(deadline=None)
@given(st.lists(STEP, max_size=60), st.integers(0, 60))
def test_candidates_are_causal(steps: list[Step], cut: int) -> None:
    assert play(StreamPredictor(), steps)[:cut] == play(StreamPredictor(), steps[:cut])


def independent(learner: StreamPredictor, steps: list[Step]) -> bool:
    """Whether a tenant's candidates are the same with the other tenant away."""
    both = [found for step, found in zip(steps, play(learner, steps), strict=True) if step[0] == "t1"]
    alone = play(StreamPredictor(), [step for step in steps if step[0] == "t1"])
    brief = [[(one.tenant, one.arguments, one.probability) for one in found] for found in both]
    return brief == [[(one.tenant, one.arguments, one.probability) for one in found] for found in alone]


@settings(deadline=None)
@given(st.lists(STEP, max_size=60))
def test_nothing_crosses_tenants(steps: list[Step]) -> None:
    assert independent(StreamPredictor(), steps)


def test_a_predictor_that_shares_its_records_is_caught() -> None:
    class Shared(Bounded[ToolKey, ToolRecord]):
        def use(self, key: ToolKey, make: Any) -> ToolRecord:
            return super().use((DEFAULT_TENANT, key[1]), make)

    steps: list[Step] = [("t2", "s1", kind, PATH) for kind in ("start", "ready", "end") * 8]
    steps.append(("t1", "s1", "ready", PATH))
    assert not independent(StreamPredictor(records=Shared(10)), steps)
    assert independent(StreamPredictor(), steps)
