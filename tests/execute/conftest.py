import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tool_bench import Bench

from sglang_paste.execute.priority import children
from sglang_paste.execute.process import adopt_orphans


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """A bench; no process and no zombie may be left when the test ends."""
    adopt_orphans()
    before = set(children(os.getpid()))
    yield Bench(tmp_path)
    left = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in set(children(os.getpid())) - before}
    assert not left
