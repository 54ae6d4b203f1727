"""Fleets: what stands for what, the sessions that are drawn, and where it turns."""

import zlib
from statistics import fmean, median

import msgspec
import pytest
from replay_rows import example
from simulated import OPTIONS, SERVICE, at, one_turn, session, tasks_of

from bench.replay.report.page import page
from bench.replay.simulate.fleet import Point, fleets, gains_pct, over_load, over_share, turn
from bench.replay.simulate.hardware import h100_8b
from bench.replay.simulate.play import Fleet, play
from bench.replay.simulate.run import Simulated, as_json
from bench.replay.simulate.server import Options
from bench.replay.simulate.shapes import ASSUMED, made_up, measured, policies, prepared
from bench.replay.simulate.workload import Step


def test_an_h100_reads_its_weights_and_has_room_for_what_is_left() -> None:
    service = h100_8b()
    assert service.decode.seconds(1, 0) == pytest.approx(16.06e9 / (0.8 * 3.35e12) + 0.002, rel=0.01)
    assert 1 / service.prefill.token == pytest.approx(30_800, rel=0.01)
    assert service.pool == pytest.approx((0.88 * 80e9 - 16.06e9) / 131_072, rel=0.01)


def test_sessions_are_drawn_as_agents_have_them() -> None:
    sessions = made_up(300)
    assert made_up(300) == sessions
    turns = [each for one in sessions for each in one.turns]
    assert fmean(each.output for each in turns) == pytest.approx(214, rel=0.1)
    shells = [use.seconds for each in turns for use in each.uses if use.tool.startswith("shell")]
    assert median(shells) == pytest.approx(0.85, rel=0.15)
    grown = [
        after.prompt - before.prompt
        for one in sessions
        for before, after in zip(one.turns, one.turns[1:], strict=False)
    ]
    assert fmean(grown) == pytest.approx(875 + 214, rel=0.15)


def test_as_many_calls_are_foreseen_as_was_said_and_never_a_write() -> None:
    uses = [use for one in prepared(made_up(200), "F", ASSUMED) for each in one.turns for use in each.uses]
    assert not any(use.guesses for use in uses if use.effect == "write")
    reads = [use for use in uses if use.effect == "read"]
    for moment in ("turn", "stream"):
        right = [any(guess.right and guess.moment == moment for guess in use.guesses) for use in reads]
        assert fmean(right) == pytest.approx(ASSUMED.right[moment], abs=0.03)
    assert fmean(sum(not guess.right for guess in use.guesses) for use in reads) == pytest.approx(0.6, abs=0.05)


def test_servers_of_a_fleet_are_independent_where_sessions_stay() -> None:
    """So that some may stand for all."""
    queues = [[session(f"s{n}", *(one_turn(300 + 90 * t, 10 + 7 * n) for t in range(4)))] for n in range(9)]

    def times(some: list[list], fleet: Fleet) -> dict[str, float]:
        return {task.session: task.task_s for task in tasks_of(play(at("A"), some, SERVICE, OPTIONS, fleet))}

    whole = times(queues, Fleet(servers=3))
    alone: dict[str, float] = {}
    for server in range(3):
        mine = [queue for queue in queues if zlib.crc32(queue[0].id.encode()) % 3 == server]
        alone |= times(mine, Fleet())
    assert alone == pytest.approx(whole)
    assert times(queues, Fleet(servers=3, routing="least loaded")) != pytest.approx(whole)


def test_drafts_that_do_not_pay_are_left_out_unless_they_are_ngrams() -> None:
    dear = msgspec.structs.replace(SERVICE, verify=Step(fixed=0.06, request=0.004, context=1e-6))
    drafted = [[session("s", msgspec.structs.replace(one_turn(400, 61), steps=40))]]
    gated = msgspec.structs.replace(OPTIONS, gated=True)
    ours, ngram = (tasks_of(play(at(run), drafted, dear, gated))[0].task_s for run in ("C", "A2"))
    stock = tasks_of(play(at("A"), [[session("s", one_turn(400, 61))]], dear, gated))[0].task_s
    assert ours == pytest.approx(stock)
    assert ngram > stock
    cheap = msgspec.structs.replace(dear, verify=Step(fixed=0.02, request=0.004, context=1e-6))
    assert tasks_of(play(at("C"), drafted, cheap, gated))[0].task_s < stock


def point(run: str, sessions: int, mean_s: float) -> Point:
    fields = {name: 1.0 for name, kind in Point.__annotations__.items() if kind is float}
    fields |= {"run": run, "sessions": sessions, "mean_s": mean_s, "routing": "affine"}
    return msgspec.convert({**fields, "servers": 1, "simulated": 1, "tasks": 9}, Point)


def test_where_it_turns_is_the_best_load_and_the_first_with_half_of_its_gain() -> None:
    gains = {8: 10.0, 16: 30.0, 32: 20.0, 64: 12.0, 128: -5.0}
    points = [point("A", load, 100.0) for load in gains] + [
        point("F", load, 100.0 - gain) for load, gain in gains.items()
    ]
    assert gains_pct(points, "F") == pytest.approx(gains)
    best, past = turn(points)
    assert (best.sessions, past and past.sessions) == (16, 64)
    assert turn([each for each in points if each.sessions < 64])[1] is None


def test_a_small_fleet_from_end_to_end() -> None:
    sessions = [msgspec.structs.replace(each, turns=each.turns[:3]) for each in made_up(12)]
    options = Options(policies=policies(sessions), gated=True)
    loads = list(over_load(sessions, h100_8b(), options, ASSUMED, loads=(2, 4), runs=("A", "F")))
    large = list(fleets(sessions, h100_8b(), options, ASSUMED, sizes=(40,)))
    assert [(each.run, each.servers, each.routing) for each in large] == [
        ("A", 2, "affine"),
        ("F", 2, "affine"),
        ("A", 2, "least loaded"),
        ("F", 2, "least loaded"),
    ]
    assert {each.tasks for each in large} == {80}
    assert gains_pct(loads, "F")[2] > 0
    shares = tuple(over_share(sessions, h100_8b(), options, ASSUMED, scales=(0.01, 1.0), load=2))
    by_scale = {(scale, each.run): each for scale, each in shares}
    assert by_scale[0.01, "A"].tool_share_pct < by_scale[1.0, "A"].tool_share_pct
    assert by_scale[1.0, "B"].mean_s < by_scale[1.0, "A"].mean_s
    found = Simulated(loads=tuple(loads), fleets=tuple(large), shares=shares, hit_rate=0.3)
    assert as_json(found)["sim_error_pct"] is None
    html = page("Simulated", "", found.sections)
    assert "F gains most at" in html


def test_foresight_is_what_the_rows_say_and_drafts_of_runs_that_were_not_played_are_assumed() -> None:
    found = measured(example())
    assert found is not None
    assert sum(found.right.values()) == pytest.approx(4 / 12)
    assert found.wrong == pytest.approx(2 / 12)
    assert found.odds == (0.3, 0.3)
    assert found.accept == {"A2": ASSUMED.accept["A2"], "C": ASSUMED.accept["C"], "F": 1.0}
    assert measured([row for row in example() if row.place.run == "A"]) is None
