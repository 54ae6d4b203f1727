"""The gateway's journal as sessions, also while a server holds it."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from sglang_paste.calls import SessionId, TenantId, ToolCall
from sglang_paste.errors import ConfigError
from sglang_paste.execute.base import Outcome
from sglang_paste.mine.read import Reader
from sglang_paste.mine.read import journal as module
from sglang_paste.mine.records import Call, Result, Session, Turn
from sglang_paste.speculate import journal as written_by
from sglang_paste.speculate.journal import Journal


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    journal = Journal(path, clock=Clock())
    yield journal
    journal.close()


def record(
    journal: Journal, at: float, tool: str, *, waited: float = 1.0, session: str | None = "s", **outcome: object
) -> None:
    Clock.now = at
    call = ToolCall(
        tenant=TenantId("t"), tool=tool, arguments={"at": at}, session=None if session is None else SessionId(session)
    )
    journal.record(call, Outcome(**{"content": f"{tool} done", "duration": 0.5, **outcome}), waited)  # type: ignore[arg-type]


def sessions(path: Path) -> list[Session]:
    return list(Reader([path]))


def made(at: float, tool: str, **result: object) -> tuple[Turn, Turn]:
    found = Result(tool, f"{tool} done", duration_s=0.5, is_error=False)
    return (
        Turn("assistant", "", (Call(tool, {"at": at}),)),
        Turn("tool", tool_results=(found,), t_start=at - 1, t_end=at),
    )


def test_the_calls_of_a_session_come_in_their_order_while_it_is_written(path: Path, journal: Journal) -> None:
    record(journal, 1010, "read")
    record(journal, 1012, "other", session="other")
    record(journal, 1020, "write")
    record(journal, 1030, "nobody knows whose", session=None)
    assert sessions(path) == [
        Session("gateway", "other", "other", made(1012, "other"), "t"),
        Session("gateway", "s", "s", (*made(1010, "read"), *made(1020, "write")), "t"),
    ]
    record(journal, 1040, "read")
    assert len(sessions(path)[1].turns) == 6
    journal.close()
    assert len(sessions(path)[1].turns) == 6


def test_calls_made_at_the_same_time_are_one_turn(path: Path, journal: Journal) -> None:
    record(journal, 1010, "slow", waited=10, failure="crashed")
    record(journal, 1005, "quick", waited=4, truncated=True)
    record(journal, 1011, "next")
    [session] = sessions(path)
    assert [[call.name for call in turn.tool_calls] for turn in session.turns] == [["slow", "quick"], [], ["next"], []]
    results = session.turns[1].tool_results
    assert [(result.is_error, result.truncated) for result in results] == [(True, False), (False, True)]


def test_a_copy_of_a_changing_file_is_taken_again_or_refused(
    path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(journal, 1010, "read")
    headers = iter([b"a", b"b", b"c", b"c"])
    monkeypatch.setattr(module, "_log_header", lambda _: next(headers))
    assert len(sessions(path)) == 1
    assert next(headers, None) is None
    changing = iter(range(100))
    monkeypatch.setattr(module, "_log_header", lambda _: next(changing))
    with pytest.raises(ConfigError, match="it changes too fast to be copied"):
        sessions(path)


def test_a_foreign_or_older_database_is_refused(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.sqlite"
    database = sqlite3.connect(other)
    database.execute("CREATE TABLE t (x)")
    with pytest.raises(ConfigError, match="is no journal of ours"):
        sessions(other)
    database.execute(f"PRAGMA application_id = {written_by.APPLICATION_ID}")
    database.close()
    with pytest.raises(ConfigError, match="has no history of calls"):
        sessions(other)
    other.write_bytes(other.read_bytes()[:100])
    with pytest.raises(ConfigError, match="cannot be read"):
        sessions(other)


def test_rows_that_make_no_sense_are_left_out(path: Path, journal: Journal) -> None:
    for at in (1010, 1020, 1030):
        record(journal, at, f"f{at}")
    journal.close()
    database = sqlite3.connect(path)
    with database:
        database.execute("UPDATE history SET arguments = '[]' WHERE tool = 'f1010'")
        database.execute("UPDATE history SET arguments = '{' WHERE tool = 'f1020'")
    database.close()
    told: list[str] = []
    reader = Reader([path], report=told.append)
    [session] = list(reader)
    assert session.turns == made(1030, "f1030")
    assert reader.counts.left_out == len(told) == 2


def test_the_history_is_bounded_and_keeps_what_can_be_said(
    path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(written_by, "MAX_HISTORY", 3)
    monkeypatch.setattr(written_by, "MAX_HISTORY_CHARS", 20)
    for at in range(1010, 1060, 10):
        record(journal, at, "read", content="x" * 30)
    call = ToolCall(tenant=TenantId("t"), tool="f", arguments={"a": "\ud800"}, session=SessionId("s"))
    journal.record(call, Outcome(content=""), 0.0)
    journal.record(
        ToolCall(tenant=TenantId("t"), tool="f", arguments={}, session=SessionId("s")), Outcome(content="\ud800"), 0
    )
    journal.record(
        ToolCall(tenant=TenantId("t"), tool="f", arguments={"a": "x" * 30}, session=SessionId("s")),
        Outcome(content=""),
        0,
    )
    [session] = sessions(path)
    results = [result for turn in session.turns for result in turn.tool_results]
    assert [(result.content, result.truncated) for result in results] == [("x" * 20, True)] * 3


def test_a_journal_of_the_version_before_gains_a_history(path: Path) -> None:
    database = sqlite3.connect(path)
    marks = f"PRAGMA application_id = {written_by.APPLICATION_ID}; PRAGMA user_version = 1"
    database.executescript(f"{written_by.SCHEMA}; {marks}")
    database.close()
    journal = Journal(path, clock=Clock())
    record(journal, 1010, "read")
    assert len(sessions(path)) == 1
    journal.close()
