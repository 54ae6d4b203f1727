import os

import pytest

from sglang_paste.mine.beside import beside


def test_gives_what_the_work_gave() -> None:
    here = os.getpid()
    found = beside(lambda: str(os.getpid()).encode() * 100_000)()
    assert found[:1].isdigit()
    assert not found.startswith(str(here).encode())


def test_a_copy_that_fails_is_made_good_here(capfd: pytest.CaptureFixture[str]) -> None:
    here = os.getpid()

    def work() -> bytes:
        if os.getpid() != here:
            raise RuntimeError
        return b"done"

    assert beside(work)() == b"done"
    capfd.readouterr()
