"""What tests of delta turns share."""

from collections.abc import Iterator

import pytest
from api_host import host

from bench.turns.host import delta_turns
from sglang_paste.patches.turns import Turns


@pytest.fixture
def kept() -> Iterator[Turns]:
    """What is kept of the conversations of one test."""
    host()
    with delta_turns() as kept:
        yield kept
