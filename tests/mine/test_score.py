"""Scores are counted as they are defined, and nothing is seen before it happened."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import msgspec
import pytest
from recorded import lookups

from sglang_paste.config import Limits
from sglang_paste.mine.baseline import Guess
from sglang_paste.mine.messages import steps
from sglang_paste.mine.records import Call, Result, Session, Turn
from sglang_paste.mine.score import Reliability, Scorer, Tally


class Scripted:
    """Says what it is told to at each decision, and `saying` once it knows what the model is saying; notes what it had
    seen."""

    def __init__(self, *answers: list[Guess], saying: Sequence[list[Guess]] = ()) -> None:
        self._answers = list(answers)
        self._saying = list(saying)
        self.heard: list[str] = []
        self.seen: list[Mapping[str, Any]] = []
        self.asked: list[tuple[int, int, str | None]] = []
        self._now: list[Guess] = []

    def observe(self, message: Mapping[str, Any]) -> None:
        self.seen.append(message)
        self.heard.clear()

    def observe_partial(self, text: str) -> None:
        self.heard.append(text)

    def candidates(self, k: int, tool: str | None = None) -> list[Guess]:
        if k == 5 and tool is None:
            answers = self._saying if self.heard else self._answers
            self._now = answers.pop(0) if answers else []
        if not self.heard:
            self.asked.append((len(self.seen), k, tool))
        return [guess for guess in self._now if tool in (None, guess.tool)][:k]

    def tools(self) -> dict[str, float]:
        return {guess.tool: guess.probability for guess in reversed(self._now)}


def guess(tool: str, probability: float = 0.5, **arguments: Any) -> Guess:
    return Guess(tool, arguments, probability)


def score(session: Session, *answers: list[Guess], inert: tuple[str, ...] = ()) -> tuple[Tally, Scripted]:
    online, tally = Scripted(*answers), Tally()
    Scorer(inert).score(session, online, tally, session.task_id)
    return tally, online


def drawn(promised: float, kept: float, count: int) -> Reliability:
    found, random = Reliability(), Random(7)
    for _ in range(count):
        found.add(promised, random.random() < kept)
    return found


def test_an_error_by_chance_is_told_from_a_real_one() -> None:
    for count in (20, 2000):
        fair = drawn(0.45, 0.45, count)
        chance = fair.chance(400)
        assert chance is not None
        assert fair.error is not None
        assert fair.error <= chance
        # of a binomial, 1.96 standard deviations
        assert chance == pytest.approx(1.96 * (0.45 * 0.55 / count) ** 0.5, rel=0.25)
        wrong = drawn(0.45, 0.9, count)
        assert wrong.error is not None
        assert wrong.error > chance
    assert Reliability().chance(400) is None


ORDER, CUSTOMER = ({"order": "order-0001"}, {"customer": "customer-919"})


def test_every_decision_comes_before_its_message() -> None:
    session = lookups("shop", 1)
    _, online = score(session)
    messages = [message for step in steps(session) for message in step.messages]
    assert online.seen == messages
    decided = [at for at, k, tool in online.asked if (k, tool) == (5, None)]
    assert decided == [number for number, message in enumerate(messages) if message["role"] == "assistant"]


def test_hits_are_counted_at_their_places() -> None:
    tally, _ = score(
        lookups("shop", 1),
        [guess("find_order", 0.9, **ORDER), guess("x")],
        [guess("x", 0.4), guess("find_customer", 0.05, customer="else"), guess("find_customer", 0.05, **CUSTOMER)],
        [guess("x", 0.3)],
    )
    assert (tally.turns, tally.calls) == (3, 2)
    assert (tally.exact, tally.tools, tally.named) == ([1, 2, 2], [1, 2], [1, 2])
    assert tally.tasks == {"task-1": [2, 1, 2]}
    assert (tally.useful, tally.wasted) == (1, 3)
    assert tally.first.counts[9] == tally.first.hits[9] == 1
    assert sum(tally.offered.counts) == 5


def test_time_is_shared_out_by_what_would_have_covered_it() -> None:
    tally, _ = score(
        lookups("shop", 1, seconds=2.0),
        [guess("x"), guess("find_order", **ORDER)],
        [guess("find_customer", limit=3, **CUSTOMER)],
    )
    assert tally.seconds == 8.0
    assert tally.seconds_exact == [0.0, 2.0, 2.0]
    assert (tally.seconds_wider, tally.seconds_earlier, tally.seconds_derived) == (8.0, 0.0, 8.0)


def test_parallel_calls_count_once_as_a_decision_and_each_for_time() -> None:
    calls = (Call("f", {"x": 1}, "1"), Call("f", {"x": 2}, "2"), Call("f", {"x": 1}, "3"))
    results = tuple(Result("f", "", call.id, duration_s=1.0) for call in reversed(calls))
    session = Session("s", "s", "t", (Turn("assistant", "", calls), Turn("tool", tool_results=results)))
    tally, _ = score(session, [guess("f", x=2)])
    assert (tally.calls, tally.exact, tally.useful) == (1, [0, 0, 0], 1)
    assert (tally.seconds, tally.seconds_exact[0], tally.seconds_earlier) == (3.0, 1.0, 1.0)


def test_inert_arguments_do_not_count_and_one_is_not_one_point_zero() -> None:
    session = Session("s", "s", "t", (Turn("assistant", "", (Call("f", {"x": 1, "why": "so"}),)),))
    answer = [guess("f", x=1.0), guess("f", x=1)]
    assert score(session, answer)[0].exact == [0, 0, 0]
    assert score(session, answer, inert=("why",))[0].exact == [0, 1, 1]
    assert score(session, answer, inert=("f.why",))[0].exact == [0, 1, 1]
    assert score(session, answer, inert=("g.why",))[0].exact == [0, 0, 0]


def test_runs_are_those_the_planner_would_start() -> None:
    session = Session("s", "s", "t", (Turn("assistant", "that is all"),))
    low = Limits().minimum_probability
    offered = [guess("a", low), guess("b", low), guess("c", low), guess("d", low / 2)]
    tally, _ = score(session, offered)
    assert (tally.useful, tally.wasted, tally.calls) == (0, Limits().per_session, 0)


def test_calibration_error_is_the_weighted_gap() -> None:
    bins = Reliability()
    assert bins.error is None
    for hit in (True, True, False, False):
        bins.add(0.75, hit)
    bins.add(1.0, True)
    assert bins.error == pytest.approx(4 / 5 * 0.25)


def test_results_find_their_calls_and_calls_without_ids_get_some() -> None:
    calls = (Call("f", {}), Call("g", {}))
    results = (Result("g", "of g", duration_s=2.0), Result("", "of f", duration_s=1.0))
    made, answered = steps(Session("s", "s", "t", (Turn("assistant", "", calls), Turn("tool", tool_results=results))))
    assert made.durations == [1.0, 2.0]
    ids = [call["id"] for call in made.messages[0]["tool_calls"]]
    assert len(set(ids)) == 2
    assert [(message["name"], message["tool_call_id"]) for message in answered.messages] == [
        ("g", ids[1]),
        ("f", ids[0]),
    ]


def test_what_the_model_says_first_is_known_for_the_last_count_alone() -> None:
    [call, other] = [guess("find_order", order="order-0001"), guess("find_order", 0.9, order="x")]
    online, tally = Scripted([other], [], saying=[[other, call], []]), Tally()
    session = lookups("shop", 1)
    Scorer().score(session, online, tally, "t")
    assert (tally.exact, tally.said) == ([0, 0, 0], [0, 1, 1])
    assert (sum(tally.said_first.counts), sum(tally.said_first.hits)) == (1, 0)
    silent = Session(
        session.source, "s", "t", tuple(msgspec.structs.replace(turn, content="") for turn in session.turns)
    )
    online, tally = Scripted([call], [], saying=[[other]]), Tally()
    Scorer().score(silent, online, tally, "t")
    assert tally.said == tally.exact == [1, 1, 1]
