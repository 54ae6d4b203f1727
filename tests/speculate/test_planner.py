"""Planner and budget: what runs early, in which order, and what gives way."""

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_paste.calls import SessionId, TenantId
from sglang_paste.config import Limits, Policy
from sglang_paste.predict.base import RunTime
from sglang_paste.speculate.budget import Usage, effective_limits, to_preempt, to_supersede
from sglang_paste.speculate.entries import Entry, State
from sglang_paste.speculate.epochs import Footprint
from sglang_paste.speculate.planner import Load, choose, price, utility

ONE, TWO = SessionId("one"), SessionId("two")
POLICY = Policy(effect="read", speculate=True, observes="local", concurrency=3)
POLICIES = {"read": POLICY, "look": POLICY}
IDLE = Load()
NUMBERS = itertools.count(1)


def make_entry(
    tool: str = "read",
    session: SessionId = ONE,
    *,
    probability: float = 0.9,
    run_time: float = 1.0,
    claimed_in: float = 1.0,
    state: State = "queued",
    asked: bool = False,
) -> Entry:
    tenant = TenantId("t")
    return Entry(
        id=next(NUMBERS),
        tenant=tenant,
        session=session,
        epoch=0,
        reads=Footprint(tenant=tenant, session=session, resources=frozenset()),
        shared=False,
        tool=tool,
        arguments={},
        key="",
        source="stream",
        probability=probability,
        run_time=RunTime(p50=run_time, p90=2 * run_time),
        claimed_in=claimed_in,
        predicted_at=0.0,
        state=state,
        asked=asked,
    )


def pick(
    queued: list[Entry], executing: list[Entry] | None = None, limits: Limits | None = None, **own: int
) -> list[Entry]:
    return choose(queued, executing or [], own, POLICIES, limits or Limits(), IDLE)


@pytest.mark.parametrize(
    ("probability", "run_time", "claimed_in", "cost", "expected"),
    [
        (1.0, 2.0, 5.0, 0.2, 2.0),
        (1.0, 2.0, 0.5, 0.2, 0.5),
        (0.0, 2.0, 5.0, 0.2, -0.4),
        (0.5, 2.0, 1.0, 0.1, 0.4),
        (0.1, 10.0, 0.5, 0.2, -1.75),
    ],
)
def test_utility(probability: float, run_time: float, claimed_in: float, cost: float, expected: float) -> None:
    assert utility(probability, run_time, claimed_in, cost) == pytest.approx(expected)


def test_the_price_rises_with_the_highest_load() -> None:
    limits = Limits(price=(0.02, 0.20))
    assert price(limits) == price(limits, 0.0, 0.0) == 0.02
    assert price(limits, 0.5, 0.0) == pytest.approx(0.11)
    assert price(limits, 0.1, 1.0) == pytest.approx(0.20)
    assert price(limits, 7.0, -1.0) == pytest.approx(0.20)


@pytest.mark.parametrize(
    ("remote", "concurrency", "load", "running", "starts"),
    [
        (False, 3, Load(cores=1.0), 0, False),
        (False, 3, Load(cores=0.3), 0, True),
        (True, 3, Load(cores=1.0), 0, True),
        (True, 3, Load(), 2, False),
        (True, 30, Load(), 2, True),
        (True, 30, Load(engine=1.0), 0, False),
    ],
)
def test_a_doubtful_run_waits_where_what_it_would_run_on_is_busy(
    remote: bool, concurrency: int, load: Load, running: int, starts: bool
) -> None:
    entry = make_entry(probability=0.3, run_time=20.0, claimed_in=4.5)
    policies = {"read": Policy(effect="read", speculate=True, observes="local", concurrency=concurrency)}
    elsewhere = {"read"} if remote else set()
    assert choose([entry], [], {"read": running}, policies, Limits(), load, elsewhere) == [entry] * starts


def test_the_most_useful_run_first() -> None:
    little, much, wrong = (
        make_entry(run_time=0.1),
        make_entry(run_time=3.0, claimed_in=2.0),
        make_entry(probability=0.0),
    )
    assert pick([little, wrong, much]) == [much, little]


def test_a_doubtful_long_run_starts_only_while_it_is_quiet() -> None:
    entry = make_entry(probability=0.3, run_time=20.0, claimed_in=1.0)
    assert pick([entry]) == [entry]
    assert choose([entry], [], {}, POLICIES, Limits(), Load(engine=1.0)) == []


def test_each_limit_holds() -> None:
    queued = [make_entry(tool, session) for tool in ("read", "look") for session in (ONE, TWO) for _ in range(5)]
    limits = Limits(speculative=3, per_session=10, per_tool=10)
    assert len(pick(queued, limits=limits)) == 3
    by_session = Counter(
        entry.session for entry in pick(queued, limits=Limits(speculative=9, per_session=2, per_tool=9))
    )
    assert by_session == {ONE: 2, TWO: 2}
    by_tool = Counter(entry.tool for entry in pick(queued, limits=Limits(speculative=9, per_session=9, per_tool=1)))
    assert by_tool == {"read": 1, "look": 1}
    wide = Limits(speculative=99, per_session=99, per_tool=99)
    assert Counter(entry.tool for entry in pick(queued, limits=wide, read=2)) == {"read": 1, "look": 3}
    assert pick(queued, limits=Limits(speculative=0)) == []


def test_what_is_at_work_counts_until_its_tool_is_gone() -> None:
    limits = Limits(speculative=1)
    assert pick([make_entry()], [make_entry(state="running")], limits) == []
    assert pick([make_entry()], [make_entry(state="squashed")], limits) == []
    assert len(pick([make_entry()], [make_entry(state="running", asked=True)], limits)) == 1


def test_a_tool_that_is_gone_starts_nothing() -> None:
    assert pick([make_entry("removed")]) == []


def test_the_launcher_overrides_the_global_limit() -> None:
    limits = Limits(speculative=4, per_session=3)
    assert effective_limits(limits, None) is limits
    assert effective_limits(limits, 0) == Limits(speculative=0, per_session=3)


def test_the_least_useful_run_gives_way() -> None:
    poor = make_entry(probability=0.3, state="running")
    runs = [make_entry(state="running"), poor, make_entry(probability=0.1, state="running", asked=True)]
    assert to_preempt("read", POLICY, runs, {}) is poor
    assert to_preempt("look", POLICY, runs, {}) is None
    assert to_preempt("read", POLICY, runs[:2], {}) is None
    assert to_preempt("read", POLICY, runs[:2], {"read": 1}) is poor


def test_nothing_gives_way_while_room_is_being_made_or_where_all_is_asked_for() -> None:
    leaving = make_entry(state="cancelled")
    assert to_preempt("read", POLICY, [leaving, make_entry(state="running"), make_entry(state="running")], {}) is None
    assert to_preempt("read", POLICY, [make_entry(state="running", asked=True)], {"read": 9}) is None


def test_a_far_likelier_call_takes_the_place_of_a_doubtful_one() -> None:
    doubtful, sure = make_entry(probability=0.4, state="running"), make_entry(probability=0.9)
    one = Limits(speculative=1)
    assert to_supersede([sure], [doubtful], {}, POLICIES, one) is doubtful
    assert to_supersede([make_entry(probability=0.6)], [doubtful], {}, POLICIES, one) is None
    assert to_supersede([sure], [make_entry(probability=0.4, state="running", asked=True)], {}, POLICIES, one) is None
    assert to_supersede([sure], [make_entry(state="cancelled"), doubtful], {}, POLICIES, one) is None
    assert to_supersede([sure], [doubtful], {"read": 3}, POLICIES, one) is None
    assert to_supersede([make_entry("gone")], [doubtful], {}, POLICIES, one) is None
    assert to_supersede([], [doubtful], {}, POLICIES, one) is None


@given(
    queued=st.lists(
        st.builds(
            make_entry,
            st.sampled_from(["read", "look", "gone"]),
            st.sampled_from([ONE, TWO]),
            probability=st.floats(0, 1),
            run_time=st.floats(0, 100),
            claimed_in=st.floats(0, 100),
        )
    ),
    executing=st.lists(
        st.builds(
            make_entry,
            st.sampled_from(["read", "look"]),
            state=st.sampled_from(["running", "squashed"]),
            asked=st.booleans(),
        ),
        max_size=4,
    ),
    limits=st.builds(Limits, speculative=st.integers(0, 6), per_session=st.integers(0, 4), per_tool=st.integers(0, 4)),
    own=st.dictionaries(st.sampled_from(["read", "look"]), st.integers(0, 3)),
    engine=st.floats(0, 1),
)
def test_choices_stay_in_the_budget_and_pay(
    queued: list[Entry], executing: list[Entry], limits: Limits, own: dict[str, int], engine: float
) -> None:
    chosen = choose(queued, executing, own, POLICIES, limits, Load(engine=engine))
    usage = Usage(executing, own)

    def gain_of(each: Entry) -> float:
        cost = price(limits, engine, usage.busy[each.tool] / POLICY.concurrency)
        return utility(each.probability, each.run_time.p50, each.claimed_in, cost)

    gains = [gain_of(each) for each in chosen]
    assert gains == sorted(gains, reverse=True)
    assert all(gain > 0 for gain in gains)
    before, after = Usage(executing, own), Usage([*executing, *chosen], own)
    assert after.total <= max(limits.speculative, before.total)
    for entry in chosen:
        assert after.sessions[entry.tenant, entry.session] <= limits.per_session
        assert after.tools[entry.tool] <= limits.per_tool
        assert after.busy[entry.tool] <= POLICY.concurrency
    left = [each for each in queued if each not in chosen and each.tool in POLICIES]
    for each in left:
        assert gain_of(each) <= 0 or not after.has_room(each, POLICY, limits), "room was left unused"
