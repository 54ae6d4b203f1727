import multiprocessing
import os

import pytest

from sglang_paste.mine.beside import spread


@pytest.mark.parametrize("processes", [None, 1, 2, 3, 9])
def test_gives_what_the_work_gave_in_order(processes: int | None) -> None:
    found = spread(lambda number: bytes([number]) * 100_000 * number, 7, processes)
    assert found == [bytes([number]) * 100_000 * number for number in range(7)]


def test_is_done_at_the_same_time() -> None:
    both = multiprocessing.get_context("fork").Barrier(2)

    def work(number: int) -> bytes:
        both.wait(timeout=60)
        return str(os.getpid()).encode()

    assert len(set(spread(work, 2, 2))) == 2


def test_is_done_at_the_same_time_where_what_came_before_is_large() -> None:
    both = multiprocessing.get_context("fork").Barrier(2)

    def work(number: int) -> bytes:
        both.wait(timeout=60)
        return bytes(1 << 20)

    assert spread(work, 4, 2) == [bytes(1 << 20)] * 4


@pytest.mark.parametrize("failing", [1, 3, 5])
def test_a_process_that_fails_is_made_good_here(failing: int, capfd: pytest.CaptureFixture[str]) -> None:
    here = os.getpid()

    def work(number: int) -> bytes:
        if number == failing and os.getpid() != here:
            raise RuntimeError
        return b"done %d" % number

    assert spread(work, 6, 2) == [b"done %d" % number for number in range(6)]
    capfd.readouterr()


def test_nothing_to_do() -> None:
    assert spread(lambda number: b"", 0) == []
