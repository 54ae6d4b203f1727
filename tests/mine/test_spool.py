"""Sessions laid aside come back whole, in an order of their own."""

import random
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import sessions

from sglang_paste.mine import spool as module
from sglang_paste.mine.records import Session
from sglang_paste.mine.split import Tasks
from sglang_paste.mine.spool import Spool


def laid_aside(items: list[Session]) -> list[tuple[Session, str]]:
    with closing(Spool()) as spool:
        for session in items:
            spool.add(session)
        found = list(spool)
        assert list(spool) == found
    return found


@settings(max_examples=40)
@given(st.lists(sessions(), max_size=4), st.randoms(use_true_random=False))
def test_they_come_back_the_same_whatever_order_they_came_in(items: list[Session], drawn: random.Random) -> None:
    found = laid_aside(items)
    assert sorted(map(repr, items)) == sorted(repr(session) for session, _ in found)
    assert laid_aside(drawn.sample(items, len(items))) == found
    tasks = Tasks()
    for session in items:
        tasks.add(session)
    assert [task for _, task in found] == [tasks.of(session).hex() for session, _ in found]


def test_what_is_too_much_for_memory_is_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IN_MEMORY_BYTES", 10)
    items = [Session("s", str(number), str(number), ()) for number in range(5)]
    assert {session.session_id for session, _ in laid_aside(items)} == set("01234")
