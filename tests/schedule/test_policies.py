"""Policies beside each other: on agents whose tools take what real ones take, ours hits no less than any."""

import math

import pytest
from retention_world import MIXED, REGULAR, Tools, World

from sglang_paste.calls import DEFAULT_TENANT, SessionId
from sglang_paste.events import Expect
from sglang_paste.schedule.book import Book, Branch
from sglang_paste.schedule.holds import Whose
from sglang_paste.schedule.policies import POLICIES, Ttl, Value


def away(name: str, since: float, *tools: str, tokens: int = 1000) -> Branch:
    whose = Whose(DEFAULT_TENANT, SessionId(name))
    return Branch(whose=whose, request=name, started=0.0, state="away", tools=tools, since=since, tokens=tokens)


def taught(**tools: float) -> Book:
    book = Book()
    for tool, seconds in tools.items():
        for _ in range(60):
            book.kinds.add(away("x", 0.0, tool).kind, seconds, tool=True)
    return book


def test_the_session_that_is_back_first_is_worth_most() -> None:
    policy = Value(taught(fast=0.5, slow=30.0))
    assert policy.score(away("a", 10.0, "fast"), 10.1) > policy.score(away("b", 10.0, "slow"), 10.1)


def test_a_tool_that_overstays_loses_to_one_that_does_not() -> None:
    policy = Value(taught(fast=0.5, slow=30.0))
    assert policy.score(away("a", 10.0, "fast"), 25.0) < policy.score(away("b", 10.0, "slow"), 25.0)


def test_a_long_context_costs_more_to_recompute() -> None:
    policy = Value(taught(tool=5.0))
    assert policy.score(away("a", 0.0, "tool", tokens=100_000), 1.0) > policy.score(away("b", 0.0, "tool"), 1.0)


def test_a_directive_counts_more_than_habit() -> None:
    policy = Value(taught(tool=60.0))
    sharp = away("a", 0.0, "tool")
    sharp.expect = Expect(tenant=DEFAULT_TENANT, session=sharp.whose.session, time=0.0, p50=1.0, p90=1.5)
    assert policy.score(sharp, 0.5) > policy.score(away("b", 0.0, "tool"), 0.5)


def test_a_time_to_live_ends() -> None:
    assert Ttl(Book()).until(away("a", 10.0, "tool")) == 10.0 + Ttl.seconds
    assert math.isinf(POLICIES["lru"](Book()).until(away("a", 10.0)))


def test_sessions_that_do_not_come_back_are_not_waited_for() -> None:
    book = Book()
    before = Value(book).until(away("a", 10.0))
    for _ in range(20):
        book.kinds.add(away("a", 0.0).kind, math.inf, tool=False)
    assert Value(book).until(away("a", 10.0)) < before


def rate(policy: str | None, tools: Tools, speed: float) -> float:
    """16 agents, a cache of 40 % of what they need, 600 turns, four seeds: the share of tokens that were cached."""
    runs = [World(policy, tools, agents=16, pool=70_000, rate=speed, seed=seed).run(600) for seed in range(4)]
    return sum(run.hit_rate for run in runs) / len(runs)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("tools", [MIXED, REGULAR], ids=["mixed", "regular"])
@pytest.mark.parametrize("speed", [20_000, 400_000], ids=["loaded", "idle"])
def test_ours_is_not_worse_than_any_other(tools: Tools, speed: float) -> None:
    rates = {"stock": rate(None, tools, speed), **{name: rate(name, tools, speed) for name in POLICIES}}
    print(*(f"{name} {share:.3f}" for name, share in sorted(rates.items(), key=lambda pair: -pair[1])))
    assert rates["value"] >= max(rates.values()) - 0.02
    assert rates["value"] >= rates["stock"] - 0.01  # the seeds' own spread where nothing but recency tells
