"""Rank 0's decisions: said only where they change something."""

import math
from array import array

from sglang_paste.calls import DEFAULT_TENANT, SessionId
from sglang_paste.events import Release
from sglang_paste.schedule.book import Book, Branch
from sglang_paste.schedule.holds import Hold, Holds, Standing, Whose
from sglang_paste.schedule.keeper import Counts, Keeper
from sglang_paste.schedule.policies import Policy, Ttl


class Scored(Policy):
    """Worth what the test says."""

    scores: dict[str, float]

    def score(self, branch: Branch, now: float) -> float:
        return self.scores[branch.request]


def whose(name: str) -> Whose:
    return Whose(DEFAULT_TENANT, SessionId(name))


def kept(keeper: Keeper, holds: Holds, name: str, now: float) -> Hold:
    prompt = array("q", [ord(name)] * 64)
    keeper.book.continued(name, whose(name), (), now)
    hold = holds.add(name, whose(name), prompt, node=1, tokens=64)
    keeper.book.held(name, whose(name), 64, now)
    return hold


def scored(**scores: float) -> tuple[Keeper, Holds, dict[str, float]]:
    book = Book()
    policy = Scored(book)
    policy.scores = scores
    keeper, holds = Keeper(book, policy, period=1.0), Holds()
    for name in scores:
        kept(keeper, holds, name, 0.0)
    return keeper, holds, scores


def test_new_holds_are_judged_at_once() -> None:
    keeper, holds, scores = scored(a=1.0, b=2.0)
    holds.apply(keeper.decide(holds, 0.0))
    scores["c"] = 0.5
    hold = kept(keeper, holds, "c", 0.1)
    assert math.isinf(hold.value)
    holds.apply(keeper.decide(holds, 0.1))
    assert [hold.request for hold in holds.in_order()] == ["c", "a", "b"]


def test_all_are_judged_in_their_period() -> None:
    keeper, holds, scores = scored(a=1.0, b=2.0)
    holds.apply(keeper.decide(holds, 0.0))
    scores.update(a=3.0)
    assert not keeper.decide(holds, 0.5)
    holds.apply(keeper.decide(holds, 1.0))
    assert [hold.request for hold in holds.in_order()] == ["b", "a"]


def test_an_order_that_stays_is_not_repeated() -> None:
    keeper, holds, scores = scored(a=1.0, b=2.0)
    assert holds.apply(keeper.decide(holds, 0.0)) == []
    scores.update(a=1.5, b=9.0)
    assert not keeper.decide(holds, 1.0)


def test_a_time_limit_ends_a_hold() -> None:
    book = Book()
    keeper, holds = Keeper(book, Ttl(book)), Holds()
    hold = kept(keeper, holds, "a", 0.0)
    assert holds.apply(keeper.decide(holds, Ttl.seconds - 1)) == []
    assert holds.apply(keeper.decide(holds, Ttl.seconds + 1)) == [hold]
    assert keeper.counts.expired == 1


def test_a_session_that_a_request_waits_for_is_let_be() -> None:
    book = Book()
    keeper, holds = Keeper(book, Ttl(book)), Holds()
    kept(keeper, holds, "a", 0.0)
    holds.want("next", whose("a"), array("q", [ord("a")] * 80))
    assert keeper.decide(holds, 10 * Ttl.seconds) == Standing()


def test_a_session_that_ended_is_released() -> None:
    keeper, holds, _ = scored(a=1.0, b=2.0)
    holds.apply(keeper.decide(holds, 0.0))
    keeper.direct([Release(tenant=DEFAULT_TENANT, session=SessionId("b"), time=0.1)])
    assert [hold.request for hold in holds.apply(keeper.decide(holds, 0.1))] == ["b"]
    assert keeper.counts.released == 1


def test_what_sessions_come_back_to() -> None:
    counts = Counts()
    counts.returned(cached=95, wanted=100, slack=10)
    counts.returned(cached=50, wanted=100, slack=10)
    counts.returned(cached=5, wanted=100, slack=10)
    assert (counts.whole, counts.part, counts.lost) == (1, 1, 1)
    assert (counts.kept_tokens, counts.lost_tokens) == (150, 150)
