"""How busy the cores are: what the kernel's counts come to."""

from pathlib import Path

import pytest

from sglang_paste.speculate.cores import PERIOD_S, Cores

BEFORE = """cpu  400 0 0 400 0 0 0 0 0 0
cpu0 100 0 0 100 0 0 0 0 0 0
cpu1 100 0 0 100 0 0 0 0 0 0
cpu10 200 0 0 200 0 0 0 0 0 0
intr 5
"""
AFTER = """cpu  9 0 0 9 0 0 0 0 0 0
cpu0 110 5 5 150 10 10 5 5 99 99
cpu1 150 0 0 150 0 0 0 0 0 0
cpu10 900 0 0 200 0 0 0 0 0 0
"""


@pytest.mark.parametrize(("cores", "busy"), [({0}, 0.4), ({1}, 0.5), ({0, 1}, 0.45), ({10}, 1.0), ({0, 7}, 0.4)])
def test_the_share_that_was_not_idle(tmp_path: Path, cores: set[int], busy: float) -> None:
    now, stat = 0.0, tmp_path / "stat"
    stat.write_text(BEFORE)
    own = Cores(lambda: now, cores, stat)
    stat.write_text(AFTER)
    assert own.busy() == 0.0, "read again too soon"
    now = PERIOD_S
    assert own.busy() == pytest.approx(busy)
    now = 2 * PERIOD_S
    assert own.busy() == 0.0, "nothing was counted since"


@pytest.mark.parametrize("text", [None, "", "cpu 1 2 3", "cpu0 1 2", "cpu0 a b c d e", "cpu1 1 1 1 1 1 1 1 1"])
def test_what_cannot_be_known_counts_as_busy(tmp_path: Path, text: str | None) -> None:
    now, stat = 0.0, tmp_path / "stat"
    if text is not None:
        stat.write_text(text)
    own = Cores(lambda: now, {0}, stat)
    now = PERIOD_S
    assert own.busy() == 1.0


def test_the_cores_of_this_machine() -> None:
    now = 0.0
    own = Cores(lambda: now)
    sum(range(3_000_000))
    now = PERIOD_S
    assert 0.0 < own.busy() <= 1.0
