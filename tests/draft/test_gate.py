"""The gate shuts where drafting loses, opens as far as it pays, and follows a text or machine that changes."""

import pytest
from draft_world import LONGEST, World, always, gated, never, rate
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_paste.draft.cost import Cost, Step
from sglang_paste.draft.gate import IDLE_PERIOD, IDLE_STEPS, Demand, Gate, Offer, Rhythm
from sglang_paste.draft.hints import Source
from sglang_paste.draft.survival import Survival, shared

batches = st.sampled_from((1, 2, 8))


@settings(max_examples=8)
@given(batches, st.floats(0, 0.02), st.floats(0.0005, 0.02), st.integers(0, 9))
def test_on_hopeless_text_it_costs_under_two_percent(batch: int, odds: float, row: float, seed: int) -> None:
    world = World(batch, odds, row=row)
    plain = batch / world.seconds(1)
    assert rate(world, 600, gated, seed) > 0.98 * plain


@settings(max_examples=8)
@given(batches, st.floats(0.7, 0.99), st.floats(0.0005, 0.01), st.integers(0, 9))
def test_on_good_text_it_comes_near_the_best_width(batch: int, odds: float, row: float, seed: int) -> None:
    world = World(batch, odds, row=row)
    assert rate(world, 300, gated, seed, warm=150) > 0.9 * world.best_rate()


def test_both_tests_tell_a_gate_from_none() -> None:
    hopeless, good = World(8, 0.01), World(1, 0.95)
    assert rate(hopeless, 400, always) < 0.98 * 8 / hopeless.seconds(1)
    assert rate(good, 300, never) < 0.9 * good.best_rate()


def test_a_lookup_that_is_dear_is_made_rarely_while_it_is_of_no_use() -> None:
    world = World(8, 0.0, lookup=0.02)
    assert rate(world, 600, gated, warm=50) > 0.96 * 8 / world.seconds(1)


def test_drafts_that_gain_less_than_their_lookup_takes_are_not_looked_up() -> None:
    world = World(1, 0.45, plain=0.004, row=0.0004, verify=0.0002, lookup=0.003)
    assert world.best_rate() > 1.2 / world.seconds(1), "drafts would gain without the look-up"
    assert rate(world, 600, gated, warm=50) > 0.96 / world.seconds(1)


def test_text_that_becomes_predictable_is_drafted_again_soon() -> None:
    gate = Gate(LONGEST)
    hopeless = Demand("r", [Offer(Source.HISTORY, 4, range(LONGEST))], LONGEST)
    for _ in range(200):
        plan = gate.plan([hopeless], 1000)
        gate.settle(hopeless, [-1])
        gate.observe(Step(1, plan.width, 1000), 0.04 + 0.002 * (plan.width - 1), 0.0, 0.0)
    assert gate.plan([hopeless], 1000).width == 1
    widths = []
    for _ in range(40):
        plan = gate.plan([hopeless], 1000)
        widths.append(plan.width)
        gate.settle(hopeless, range(plan.width))
        gate.observe(Step(1, plan.width, 1000), 0.04 + 0.002 * (plan.width - 1), 0.0, 0.0)
    assert max(widths) > 4


def test_a_request_pays_for_its_own_bad_luck() -> None:
    gate = Gate(LONGEST)
    good, bad = (Demand(name, [Offer(Source.HISTORY, 9, range(LONGEST))], LONGEST) for name in ("good", "bad"))
    for _ in range(60):
        gate.settle(good, range(LONGEST))
        gate.settle(bad, [-1])
    assert gate.plan([good], 100).width > gate.plan([bad], 100).width
    gate.drop("bad")
    assert gate.plan([good], 100).width == gate.plan([bad], 100).width


def test_limits_hold_whatever_is_promised() -> None:
    gate = Gate(LONGEST)
    sure = Offer(Source.PREDICTED, 9, range(LONGEST))
    assert gate.plan([Demand("r", [sure], 0)], 10).width == 1
    assert gate.plan([Demand("r", [sure], 3)], 10).width <= 4
    assert gate.plan([Demand("r", [], LONGEST)], 10).width == 1


def test_the_likeliest_offer_is_picked_and_the_most_trusted_of_equals() -> None:
    gate = Gate(LONGEST)
    first, second = Offer(Source.PREDICTED, 2, range(8)), Offer(Source.PREDICTED, 2, range(8))
    weak = Offer(Source.HISTORY, 1, range(8))
    (picked,) = gate.plan([Demand("r", [weak, first, second], LONGEST)], 10).picks
    assert picked is first


@given(st.lists(st.tuples(st.integers(1, 64), st.integers(1, 32), st.integers(0, 100_000)), min_size=60, max_size=60))
def test_cost_learns_any_linear_engine(steps: list[tuple[int, int, int]]) -> None:
    cost = Cost()

    def true(step: Step) -> float:
        return 0.03 + 0.002 * step.batch + 0.001 * step.batch * (step.width - 1) + step.context * 1e-6

    for step in map(Step._make, steps * 3):
        cost.observe(step, true(step))
    for step in map(Step._make, steps):
        assert cost.seconds(step) == pytest.approx(true(step), rel=0.25, abs=0.02)


def test_one_step_that_was_held_up_changes_little() -> None:
    cost = Cost()
    for _ in range(50):
        cost.observe(Step(1, 1, 1000), 0.04)
    before = cost.seconds(Step(1, 1, 1000))
    cost.observe(Step(1, 1, 1000), 4.0)
    assert cost.seconds(Step(1, 1, 1000)) < 1.3 * before


def test_cost_follows_a_machine_that_becomes_slower() -> None:
    cost = Cost()
    for seconds in [0.04] * 100 + [0.08] * 60:
        cost.observe(Step(1, 1, 1000), seconds)
    assert cost.seconds(Step(1, 1, 1000)) == pytest.approx(0.08, rel=0.1)


@given(st.sampled_from(Source), st.integers(1, 40), st.lists(st.integers(0, 8), max_size=300))
def test_odds_stay_odds_and_match_what_was_seen(source: Source, match: int, rights: list[int]) -> None:
    survival = Survival(LONGEST)
    for right in rights:
        survival.observe(source, match, right, 8)
    hazards = survival.hazards(source, match)
    assert len(hazards) == LONGEST
    assert (hazards > 0).all()
    assert (hazards < 1).all()
    if len(rights) > 100:
        assert hazards[0] == pytest.approx(rights.count(0) / len(rights), abs=0.15)


@given(st.lists(st.integers(0, 2), max_size=6), st.lists(st.integers(0, 2), max_size=6))
def test_shared_is_the_common_beginning(draft: list[int], generated: list[int]) -> None:
    right, compared = shared(draft, generated)
    assert draft[:right] == generated[:right]
    assert compared == min(len(draft), len(generated))
    assert right == compared or draft[right] != generated[right]


def test_where_the_width_is_fixed_lookups_become_rare_and_come_back() -> None:
    rhythm = Rhythm()
    for _ in range(IDLE_STEPS):
        assert rhythm.looks_up()
        rhythm.observe(0)
    assert sum(rhythm.looks_up() for _ in range(10 * IDLE_PERIOD)) == 10
    rhythm.observe(1)
    assert all(rhythm.looks_up() for _ in range(10))
