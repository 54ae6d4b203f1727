"""What the bench of turns plays and how it adds up, without a server."""

import json
from pathlib import Path

import msgspec
import pytest

from bench.turns import kvtrace, report
from bench.turns.play import Row
from bench.turns.scenario import QUICK, WORKING_SET, scenarios
from bench.turns.script import sizes
from bench.turns.stamps import Forward, Sent, Stamps


def row(side: str, **changes: object) -> Row:
    times = dict.fromkeys([name for name in Row.__struct_fields__ if name.endswith("_s")], 1.0)
    fields = {
        "scenario": "fix-6",
        "pool": "room",
        "run": 0,
        "side": side,
        "session": 0,
        "turn": 1,
        "prompt": 100,
        "cached": 50,
        "prefilled": 50,
        "same_ids": True,
        "same_greedy": True,
    }
    return Row(**{**times, **fields, **changes})


def test_both_sides_get_the_same_sessions_every_time() -> None:
    traces = kvtrace.load(None)
    assert scenarios(QUICK, traces) == scenarios(QUICK, kvtrace.load(None))
    turns = {
        (each.name, each.pool): [len(script.steps) for script in each.scripts] for each in scenarios(QUICK, traces)
    }
    assert turns["fix-6", "room"] == [6]
    assert turns["coding-35", "room"] == [35]
    assert turns["agents-3x5", "pressure"] == [5, 5, 5]
    assert len(turns["burst-8", "pressure"]) == 8
    assert turns["strangers", "pressure"] == [6, 6, 6, *[1] * 35]
    for each in scenarios(QUICK, traces):
        for script in each.scripts:
            assert all(step.call for step in script.steps[:-1])
            assert script.steps[-1].call is None


def test_sizes_add_up() -> None:
    assert sum(sizes("seed", 35, 40_000)) == pytest.approx(40_000 - 45 * 34, rel=0.05)


def test_recorded_sessions_are_scaled(tmp_path: Path) -> None:
    requests = [{"in": 10_000 * number, "gap_s": 4.0, "other": 1} for number in range(1, 10)]
    file = tmp_path / "trace.jsonl"
    file.write_text("\n".join(json.dumps({"requests": requests}) for _ in range(7)))
    scripts = kvtrace.scripts(kvtrace.load(file), 4, WORKING_SET)
    assert [len(script.steps) for script in scripts] == [4] * 6
    assert [step.absence for step in scripts[0].steps] == [0.1] * 4
    file.write_text("")
    with pytest.raises(SystemExit, match="has 0 sessions of 8 requests or more"):
        kvtrace.load(file)


def test_ratios_are_stock_through_ours_and_hit_rates_are_in_points() -> None:
    rows = [row("stock", ttft_s=3.0), row("ours", ttft_s=1.5)]
    rows += [row("stock", pool="pressure", cached=20), row("ours", pool="pressure", cached=70)]
    rows += [row("stock", scenario="x", prompt=100_000), row("ours", scenario="x", prompt=100_000, overhead_s=0.05)]
    found = report.summary(rows)
    assert found["ttft_ratio_6"] == 2.0
    assert found["hit_rate_gain_points"] == 50.0
    assert found["hit_rate_gain_points_strangers"] is None
    assert found["overhead_ratio_100k"] == 20.0
    assert found["ttft_ratio_35"] is None


def test_time_in_which_the_model_ran_is_found_in_what_the_processes_wrote(tmp_path: Path) -> None:
    stamps = [
        Sent(rid="a", time=1.0, tokens=5, digest=7),
        Forward(["a"], 2.0, 4.0, True, [1]),
        Forward(["a", "b"], 5.0, 6.0, False, [2, 9]),
    ]
    for number, stamp in enumerate(stamps):
        (tmp_path / f"{number}.jsonl").write_bytes(msgspec.json.encode(stamp))
    found = Stamps(tmp_path)
    assert found.busy(3.0, 5.5) == 1.5
    assert found.busy(0.0, 9.0) == 3.0
    assert found.greedy("a", 2) == [1, 2]
    assert found.greedy("b", 2) == [9]
    assert found.sent["a"].digest == 7
