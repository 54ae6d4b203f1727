"""What rows come to."""

import pytest
from replay_rows import MAIN, example, place, task, turn

from bench.replay.summary import percentile, summary, tool_share


def test_a_reduction_is_of_the_sessions_that_both_played() -> None:
    found = summary(example(), MAIN)
    # 3 turns of 2 s and two calls of 1 s on stock; reused saves 0.99 s, joined 0.6 s.
    assert found["mean_reduction_pct"] == pytest.approx(100 * (0.99 + 0.6) / 24, abs=0.01)
    assert found["tool_latency_ratio"] == pytest.approx(6 / (6 - 1.59), abs=0.01)
    assert found["vs_ngram_reduction_pct"] is None
    assert found["tool_share_pct"] == 25.0
    assert found["mean_reduction_pct/recurring"] == pytest.approx(100 * 0.99 / 8, abs=0.01)


def test_an_overhead_is_against_the_block_beside_it() -> None:
    rows = [
        task(place("A"), "s0", turn(ttft_s=1.0)),
        task(place("same"), "s0", turn(ttft_s=1.5)),
        task(place("wrong"), "s0", turn(ttft_s=2.5)),
    ]
    found = summary(rows, MAIN)
    assert found["all_wrong_overhead_pct"] == 25.0
    assert found["a_vs_a_pct"] == pytest.approx(14.29, abs=0.01)


def test_one_side_alone_has_no_numbers() -> None:
    found = summary([task(place("F"))], MAIN)
    assert {found[name] for name in ("mean_reduction_pct", "p99_reduction_pct", "tool_share_pct")} == {None}
    assert tool_share([]) is None


def test_the_99th_percentile_of_few_is_the_largest() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.99) == 3.0
