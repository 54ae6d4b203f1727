"""What a replay's rows come to: known answers, and a report that stands by itself."""

import json
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from replay_rows import block, example, place, task, turn

from bench.replay.records import Early, Row, Setting, append_rows
from bench.replay.report import bounds
from bench.replay.report.build import as_json, as_page, as_text, reliability
from bench.replay.report.compare import Rows
from bench.replay.report.stats import change, interval, mean, quantile, ratio, shares
from bench.replay.report.summary import latency_ratio, numbers, parts, summary


def test_an_interval_of_equal_values_is_a_point() -> None:
    assert interval(np.full((5, 2), 3.0), mean) == (3.0, 3.0, 3.0)


def test_an_interval_is_as_wide_as_the_standard_error_says() -> None:
    values = np.random.default_rng(1).normal(10.0, 2.0, (400, 1))
    value, low, high = interval(values, mean)
    assert value == pytest.approx(values.mean())
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.1)


def test_pairs_cancel_what_both_sides_share() -> None:
    """Sessions differ by far more than the sides do; what is drawn in pairs sees that, what is not does not."""
    long = np.random.default_rng(2).uniform(1.0, 100.0, (40, 1))
    shorter = long * 0.9
    value, low, high = change(long, shorter, mean)
    assert (value, low, high) == pytest.approx((-10.0, -10.0, -10.0))
    apart = [interval(side, mean, seed) for seed, side in enumerate((long, shorter))]
    assert apart[1].high > apart[0].low
    shuffled = np.random.default_rng(3).permutation(shorter)
    value, low, high = change(long, shuffled, mean)
    assert value == pytest.approx(-10.0)
    assert high > 0 > low


def test_repetitions_of_a_session_do_not_make_it_surer() -> None:
    once = np.random.default_rng(4).uniform(1.0, 9.0, (12, 1))
    _, low, high = interval(once, mean)
    _, low_repeated, high_repeated = interval(np.repeat(once, 20, axis=1), mean)
    assert high_repeated - low_repeated == pytest.approx(high - low)
    _, low_wrong, high_wrong = interval(np.repeat(once, 20, axis=0), mean)
    assert high_wrong - low_wrong < (high - low) / 3


def test_quantiles_and_ratios() -> None:
    base = np.arange(1.0, 102.0)[:, None]
    assert float(quantile(0.5)(base[:, 0])) == 51.0
    assert float(quantile(0.99)(base[:, 0])) == 100.0
    assert ratio(base, base / 2, quantile(0.95)) == pytest.approx((2.0, 2.0, 2.0))
    with pytest.raises(ValueError, match="101 sessions cannot be paired with 3"):
        change(base, base[:3], mean)


def test_a_distribution_rises_from_the_first_to_the_last() -> None:
    assert shares([3.0, 1.0, 1.0, 2.0]) == [(1.0, 0.25), (1.0, 0.5), (2.0, 0.75), (3.0, 1.0)]


def test_bounds_at_points_where_the_answer_is_known() -> None:
    assert bounds.no_tools(0.45) == pytest.approx(45.0)
    assert bounds.speculative_actions(1.0, 1.0) == pytest.approx(50.0)
    assert bounds.speculative_actions(0.5, 0.0) == 0.0
    # G = T = 1: a right guess hides one of two seconds.
    assert bounds.one_ahead(0.5, 1.0) == pytest.approx(50.0)
    # G = 3, T = 1, a guess that takes 1: max(3, 2) of 4.
    assert bounds.one_ahead(0.25, 1.0, guess=0.25) == pytest.approx(25.0)
    # G = 1, T = 3 and half of the guesses right: 0.5 · 3 + 0.5 · 4 of 4.
    assert bounds.one_ahead(0.75, 0.5) == pytest.approx(12.5)


def test_the_numbers_of_rows_that_can_be_added_up_by_hand() -> None:
    rows = Rows(example())
    stock, everything = numbers(rows)
    assert (stock.run, everything.run) == ("A", "F")
    assert (stock.tasks, stock.sessions, stock.repetitions) == (6, 3, 2)
    assert stock.task_s["mean"].value == pytest.approx(8.0)
    assert everything.task_s["mean"].value == pytest.approx(8.0 - (0.99 + 0.6) / 3)
    assert everything.change_pct["mean"].value == pytest.approx(-100 * (0.99 + 0.6) / 3 / 8)
    assert everything.outcomes == {"reused": 2, "joined": 2, "run": 8}
    assert everything.hit_rate == pytest.approx(1 / 3)
    assert (everything.useful, everything.wasted, everything.wasted_per_useful) == (4, 2, 0.5)
    assert stock.wasted_per_useful is None
    assert stock.tool_share == pytest.approx(2 / 8)
    assert stock.prefix_hit_pct == pytest.approx(90.0)
    assert stock.engine_pct == pytest.approx(60.0)
    assert stock.peak_gb == pytest.approx(1.0)
    spent = everything.spent
    assert spent.first + spent.generation + spent.tools + spent.other == pytest.approx(everything.task_s["mean"].value)


def test_a_summary_says_only_what_was_measured() -> None:
    found = summary(example(), sim_error_pct=3.214)
    assert found["mean_reduction_pct"] == pytest.approx(100 * 0.53 / 8, abs=0.01)
    assert found["tool_latency_ratio"] == pytest.approx(6 / (6 - 1.59), abs=0.01)
    assert found["tool_share_pct"] == 25.0
    assert found["sim_error_pct"] == 3.21
    assert found["mean_reduction_pct/customer service"] == pytest.approx(100 * 0.99 / 8, abs=0.01)
    assert found["mean_reduction_pct/coding"] == 0.0
    assert found["tool_latency_ratio/recurring"] == pytest.approx(2 / 1.01, abs=0.01)
    assert [name for name, value in found.items() if value is None] == [
        "vs_ngram_reduction_pct",
        "all_wrong_overhead_pct",
        "a_vs_a_pct",
        "fast_tools_reduction_pct",
        "tools_reduction_pct",
        "drafts_reduction_pct",
        "retention_reduction_pct",
        "order_reduction_pct",
    ]


def test_what_wrong_guesses_cost_is_measured_beside_the_stock_that_ran_next_to_them() -> None:
    def played(run: str, seconds: float) -> list[Row]:
        where = place(run)  # type: ignore[arg-type]
        return [task(where, "s0", turn(generation_s=seconds)), block(where)]

    rows = [*example(), *played("same", 4.0), *played("wrong", 4.11)]
    found = summary(rows)
    assert found["all_wrong_overhead_pct"] == pytest.approx(100 * 0.11 / 5.5, abs=0.01)
    assert found["a_vs_a_pct"] == pytest.approx(100 * (5.5 / 8 - 1), abs=0.01)
    assert summary([*example(), *played("wrong", 8.5)])["all_wrong_overhead_pct"] == pytest.approx(25.0, abs=0.01)


def test_sessions_that_only_one_side_played_are_not_compared() -> None:
    slow = [task(place("A"), "s9", turn(generation_s=900.0)), block(place("A", 1))]
    assert summary([*example(), *slow])["mean_reduction_pct"] == summary(example())["mean_reduction_pct"]


def test_blocks_may_play_other_sessions_each_time() -> None:
    rows = [*example()]
    for run, seconds in (("A", 4.0), ("F", 2.0)):
        where = place(run, 7)  # type: ignore[arg-type]
        rows += [task(where, "s7", turn(generation_s=seconds)), block(where)]
    stock, everything = numbers(Rows(rows))
    assert (stock.sessions, everything.sessions) == (4, 4)
    assert everything.task_s["p99"].value < stock.task_s["p99"].value
    pair = Rows(rows).pair(place("A").setting, "A", "F")
    assert pair is not None
    assert [side.shape for side in pair] == [(4, 1), (4, 1)]


def test_settings_are_kept_apart() -> None:
    other = Setting(name="fast", agents=2, scale=0.001, model="tiny")
    fast = [task(place("A", setting=other), "s0", turn(tools_s=0.005)), block(place("A", setting=other))]
    assert summary([*fast, *example()]) == summary(example())
    ours = [task(place("F", setting=other), "s0", turn(tools_s=0.002)), block(place("F", setting=other))]
    both = summary([*fast, *ours, *example()])
    assert both["fast_tools_reduction_pct"] == pytest.approx(100 * 0.003 / 2.005, abs=0.01)
    assert both["mean_reduction_pct"] == summary(example())["mean_reduction_pct"]


def test_parts_are_the_domains_and_whether_tasks_were_known() -> None:
    found = {(part.domain, part.recurring): part for part in parts(Rows(example()), place("A").setting)}
    assert found["all", None].sessions == 3
    assert found["all", True].sessions == 1
    assert found["customer service", True].change_pct.value == pytest.approx(-100 * 0.99 / 8)
    assert found["coding", None].change_pct.value == pytest.approx(0.0)
    assert ("coding", True) not in found
    known = latency_ratio(Rows(example()), place("A").setting, "F", lambda each: each.recurring)
    assert known is not None
    assert known.value == pytest.approx(2 / 1.01)


def test_reliability_counts_what_was_asked_for() -> None:
    early = [Early(tool="t", probability=0.75, end="claimed" if n < 3 else "expired", run_s=1.0) for n in range(4)]
    early.append(Early(tool="t", probability=1.0, end="claimed", run_s=1.0))
    early.append(Early(tool="t", probability=None, end="claimed", run_s=1.0))
    bins = reliability([block(place("F"), early=tuple(early))])
    assert [(odds, share, count) for odds, share, count, _ in bins] == [(0.75, 0.75, 4), (1.0, 1.0, 1)]
    low, high = bins[0][3]
    assert low < 0.75 < high


def test_the_page_stands_by_itself() -> None:
    named = [task(place("A"), "s<b>", domain='<script>alert("x")</script>'), block(place("A", 2))]
    named += [task(place("F"), "s<b>", domain='<script>alert("x")</script>'), block(place("F", 2))]
    html = as_page([*example(), *named])
    assert not re.search(r"<script|https?:|src=|@import|url\(", html)
    pictures = re.findall(r'<svg class="plot".*?</svg>', html, re.DOTALL)
    assert len(pictures) >= 5
    for picture in pictures:
        ElementTree.fromstring(picture)  # noqa: S314
    for title in ("Task times", "Where the time goes", "Hits and waste", "Can the probabilities be trusted?"):
        assert title in html


def test_a_report_without_stock_or_everything_is_a_table() -> None:
    html = as_page([task(place("B")), block(place("B"))])
    assert "B tools run early" in html
    assert "not measured" in html


def test_the_command_reads_a_file_of_rows(tmp_path: Path) -> None:
    rows, page, numbers_file = tmp_path / "rows.jsonl", tmp_path / "report.html", tmp_path / "report.json"
    append_rows(rows, example())
    command = [sys.executable, "-m", "bench.replay.report", rows, "-o", page, "--json", numbers_file]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "A stock" in done.stdout
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert json.loads(numbers_file.read_text())["summary"]["tool_share_pct"] == 25.0
    assert as_text(numbers(Rows(example()))) in done.stdout
    rows.write_text("")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no whole block of rows" in done.stderr


def test_all_numbers_can_be_written() -> None:
    assert set(as_json(example())) == {"summary", "runs", "parts", "reliability"}
