"""What is predicted of a session's next turn is told to the engine, each time it changes."""

import json
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest

from sglang_paste.calls import DEFAULT_TENANT, Arguments, SessionId, ToolCall
from sglang_paste.events import (
    MAX_FORESEEN,
    MAX_FORESEEN_CHARS,
    CallNamed,
    CallOpened,
    Draft,
    EngineDirective,
    Event,
    TurnEnded,
    TurnStarted,
)
from sglang_paste.predict import Candidate, RunTime, Source
from sglang_paste.speculate.drafts import FLOOR, Drafting

TIME = RunTime(p50=1.0, p90=2.0)
CALL = ToolCall(tenant=DEFAULT_TENANT, tool="read", arguments={}, session=SessionId("s"))


def candidate(
    probability: float, arguments: Arguments | None = None, *, source: Source = "mined", session: str = "s"
) -> Candidate:
    return Candidate(
        tenant=DEFAULT_TENANT,
        session=SessionId(session),
        tool="read",
        arguments={"path": "a"} if arguments is None else arguments,
        probability=probability,
        run_time=TIME,
        claimed_in=1.0,
        source=source,
    )


def _head() -> dict[str, Any]:
    return {"tenant": DEFAULT_TENANT, "session": SessionId("s"), "request": "r", "position": 0, "time": 0.0}


class Learned:
    """A predictor that offers what it is told to."""

    offers: ClassVar[list[Candidate]] = []

    def observe(self, event: Event) -> list[Candidate]:
        return self.offers

    def confirm(self, *args: Any, **kwargs: Any) -> list[Candidate]:
        return self.offers

    def under_way(self, *args: Any) -> list[Candidate]:
        return self.offers

    def foresee(self, *args: Any) -> list[Candidate]:
        return self.offers

    def run_time(self, *args: Any) -> RunTime:
        return TIME

    async def save(self) -> None: ...


class Heard:
    def __init__(self) -> None:
        self.told: list[Draft] = []
        self.learned = Learned()
        self.drafting = Drafting(self.learned, self._tell, lambda: 3.0)

    def _tell(self, directives: Sequence[EngineDirective]) -> None:
        self.told += [each for each in directives if isinstance(each, Draft)]

    def begin(self, *candidates: Candidate) -> list[Candidate]:
        self.learned.offers = list(candidates)  # type: ignore[misc]
        return self.drafting.observe(TurnStarted(**_head(), prompt_tokens=1, tools=()))

    def last(self) -> list[tuple[Any, float]]:
        return [(json.loads(call.arguments), call.probability) for call in self.told[-1].calls]


def test_the_likeliest_comes_first_and_nothing_else_is_changed() -> None:
    heard = Heard()
    offered = [candidate(0.2, {"b": 1}), candidate(0.6, {"é": [1]})]
    assert heard.begin(*offered) == offered
    assert heard.last() == [({"é": [1]}, 0.6), ({"b": 1}, 0.2)]
    assert (heard.told[0].session, heard.told[0].time) == ("s", 3.0)


def test_what_does_not_change_is_not_told_again() -> None:
    heard = Heard()
    heard.begin(candidate(0.5))
    heard.begin(candidate(0.5))
    heard.begin()
    assert len(heard.told) == 1


def test_a_confirmed_call_and_the_next_turn_add_up() -> None:
    heard = Heard()
    heard.learned.offers = [candidate(0.3, {"a": 1})]  # type: ignore[misc]
    heard.drafting.confirm(CALL, "", 0.1, ok=True)
    heard.begin(candidate(0.4, {"b": 1}), candidate(0.9, {"a": 1}))
    assert heard.last() == [({"a": 1}, 0.9), ({"b": 1}, 0.4)]


@pytest.mark.parametrize(
    "event", [CallOpened(**_head(), index=0, said="b"), CallNamed(**_head(), index=0, tool="f")], ids=["said", "named"]
)
def test_what_is_expected_of_a_call_under_way_takes_the_place_of_what_was_before(event: Event) -> None:
    heard = Heard()
    heard.begin(candidate(0.9, {"a": 1}))
    heard.learned.offers = []  # type: ignore[misc]
    heard.drafting.observe(event)
    assert heard.last() == [({"a": 1}, 0.9)], "nothing better is known"
    heard.learned.offers = [candidate(0.4, {"b": 1})]  # type: ignore[misc]
    heard.drafting.observe(event)
    assert heard.last() == [({"b": 1}, 0.4)]


def test_with_the_turn_ends_what_was_expected_of_it() -> None:
    heard = Heard()
    heard.begin(candidate(0.9, {"a": 1}))
    heard.drafting.observe(TurnEnded(**_head(), reason="stop", calls=0))
    heard.begin(candidate(0.4, {"b": 1}))
    assert heard.last() == [({"b": 1}, 0.4)]


def test_no_session_hears_of_another() -> None:
    heard = Heard()
    heard.begin(candidate(0.9, {"a": 1}), candidate(0.8, {"b": 1}, session="t"))
    assert {told.session: told.calls[0].arguments for told in heard.told} == {"s": '{"a": 1}', "t": '{"b": 1}'}


def test_what_is_unlikely_huge_or_already_written_is_not_told() -> None:
    heard = Heard()
    heard.begin(candidate(FLOOR / 2), candidate(0.9, {"a": "x" * MAX_FORESEEN_CHARS}), candidate(0.9, source="stream"))
    assert heard.told == []


def test_only_so_many_are_told() -> None:
    heard = Heard()
    heard.begin(*(candidate(0.1 + n / 100, {"n": n}) for n in range(MAX_FORESEEN + 3)))
    assert len(heard.last()) == MAX_FORESEEN


def test_calls_further_ahead_are_not_told() -> None:
    heard = Heard()
    heard.learned.offers = [candidate(0.9)]  # type: ignore[misc]
    assert heard.drafting.foresee(CALL, "", 0.5, 1.0) == heard.learned.offers
    assert heard.drafting.under_way(CALL) == heard.learned.offers
    assert heard.told == []
