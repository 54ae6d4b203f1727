"""The journal: a call id executes at most once, whatever dies."""

import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sglang_paste.calls import SessionId, TenantId, ToolCall
from sglang_paste.errors import BadArguments, CallError, ConfigError, JournalError
from sglang_paste.execute.base import Outcome
from sglang_paste.speculate import journal as module
from sglang_paste.speculate.journal import Disclosure, Journal

DONE = Outcome(content="done")


def make_call(
    call_id: str | None = "c1", *, tenant: str = "t", session: str | None = None, **arguments: object
) -> ToolCall:
    return ToolCall(
        tenant=TenantId(tenant),
        tool="read",
        arguments=arguments,
        session=SessionId(session) if session else None,
        call_id=call_id,
    )


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def closed_journals(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    connections = []
    real = module._open

    def remember(path: Path) -> sqlite3.Connection:
        connections.append(real(path))
        return connections[-1]

    monkeypatch.setattr(module, "_open", remember)
    yield
    for connection in connections:
        connection.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal.sqlite"


def test_a_call_runs_once_and_is_replayed(path: Path) -> None:
    journal = Journal(path)
    begun = journal.begin(make_call())
    assert begun.kind == "fresh"
    again = journal.begin(make_call())
    assert (again.kind, again.id) == ("in_flight", begun.id)
    journal.finish(make_call(), DONE)
    assert journal.begin(make_call()).outcome == DONE
    journal.close()
    assert Journal(path).begin(make_call()).outcome == DONE


def test_a_call_cut_off_by_a_crash_is_unknown_for_ever(path: Path) -> None:
    journal = Journal(path)
    journal.begin(make_call())
    journal.close()
    for _ in range(2):
        journal = Journal(path)
        assert journal.begin(make_call()).kind == "unknown"
        journal.close()


def test_a_call_that_did_not_start_may_run_later(path: Path) -> None:
    journal = Journal(path)
    journal.begin(make_call())
    journal.release(make_call())
    assert journal.begin(make_call()).kind == "fresh"


def test_without_a_call_id_nothing_is_kept(path: Path) -> None:
    journal = Journal(path)
    for _ in range(2):
        assert journal.begin(make_call(None)).kind == "fresh"
        journal.finish(make_call(None), DONE)
        journal.release(make_call(None))


def test_an_id_is_good_for_one_call(path: Path) -> None:
    journal = Journal(path)
    journal.begin(make_call(path="a"))
    with pytest.raises(CallError, match="'c1' belongs to another call"):
        journal.begin(make_call(path="b"))
    assert journal.begin(make_call(tenant="other", path="b")).kind == "fresh"


def test_ids_may_repeat_in_named_sessions_but_not_beside_an_unnamed_one(path: Path) -> None:
    journal = Journal(path)
    assert journal.begin(make_call(session="a")).kind == "fresh"
    assert journal.begin(make_call(session="b")).kind == "fresh"
    assert journal.begin(make_call()).kind == "in_flight"
    assert journal.begin(make_call("c2")).kind == "fresh"
    assert journal.begin(make_call("c2", session="a")).kind == "in_flight"


def test_a_call_finishes_once(path: Path) -> None:
    journal = Journal(path)
    with pytest.raises(JournalError, match="was not begun here"):
        journal.finish(make_call(), DONE)
    journal.begin(make_call())
    journal.finish(make_call(), DONE)
    with pytest.raises(JournalError, match="was not begun here"):
        journal.release(make_call())


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(content="", failure="timeout", duration=1.5),
        Outcome(content="no\0 \ud800 ünd 🦊", is_error=True, truncated=True),
        Outcome(content="x", structured={"big": 2**70, "list": [None, True, 1.5, {"a": "é"}]}),
        Outcome(content="x" * 1_000_000),
    ],
)
def test_outcomes_survive_unchanged(path: Path, outcome: Outcome) -> None:
    journal = Journal(path)
    journal.begin(make_call())
    journal.finish(make_call(), outcome)
    assert journal.begin(make_call()).outcome == outcome


def test_an_outcome_that_cannot_be_kept_is_never_run_again(path: Path) -> None:
    journal = Journal(path)
    journal.begin(make_call())
    journal.finish(make_call(), Outcome(content="x", structured=object()))
    assert journal.begin(make_call()).kind == "unknown"


@pytest.mark.parametrize("bad", ["\ud800", "x" * 1025])
def test_bad_ids_are_refused(path: Path, bad: str) -> None:
    with pytest.raises(CallError, match="call id or session"):
        Journal(path).begin(make_call(bad))


def test_bad_arguments_are_refused(path: Path) -> None:
    with pytest.raises(BadArguments):
        Journal(path).begin(make_call(x=float("nan")))


def test_it_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CALLS", 100)
    monkeypatch.setattr(module, "MAX_OUTCOMES_BYTES", 10_000)
    monkeypatch.setattr(module, "PRUNE_EVERY", 10)
    clock = Clock()
    journal = Journal(path, clock=clock)
    journal.begin(make_call("at work"))
    for number in range(500):
        journal.begin(make_call(f"c{number}"))
        journal.finish(make_call(f"c{number}"), Outcome(content="x" * 1000))
    rows, stored = count(journal)
    assert rows <= 111
    assert 8_000 < stored <= 10_000
    assert journal.begin(make_call("c499")).kind == "replay"
    assert journal.begin(make_call("c450")).kind == "unknown"
    assert journal.begin(make_call("c0")).kind == "fresh"
    assert journal.begin(make_call("at work")).kind == "in_flight"
    clock.now += module.MAX_AGE_S + 1
    for number in range(500, 560):
        journal.begin(make_call(f"c{number}"))
    assert count(journal)[0] <= 71
    journal.close()
    assert count(Journal(path))[1] <= 10_000


def count(journal: Journal) -> tuple[int, int]:
    rows, stored = journal._one("SELECT count(*), coalesce(sum(length(outcome)), 0) FROM calls")
    assert stored == journal._bytes
    return rows, stored


def test_disclosures_are_kept_and_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_DISCLOSURES", 5)
    journal = Journal(path)
    logged = [
        Disclosure(time=n, tenant="t", session="s", tool="web", arguments="{}", source="stream", probability=0.5)
        for n in range(9)
    ]
    for disclosure in logged:
        journal.disclose(disclosure)
    assert journal.disclosures() == logged[:3:-1]
    assert journal.disclosures(2) == logged[:6:-1]


def test_only_the_owner_can_read_it(path: Path) -> None:
    journal = Journal(path)
    journal.begin(make_call())
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    journal.close()
    path.chmod(0o644)
    Journal(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_damaged_file_is_refused_and_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"not a database, " * 1000)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"journal\.sqlite is damaged"):
        Journal(path)
    assert path.read_bytes() == before


def test_a_file_damaged_inside_is_refused(path: Path) -> None:
    journal = Journal(path)
    for number in range(300):
        journal.begin(make_call(f"c{number}"))
        journal.finish(make_call(f"c{number}"), DONE)
    journal.close()
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4096] = b"\xff" * 4096
    path.write_bytes(data)
    with pytest.raises(ConfigError, match="is damaged"):
        Journal(path)


def test_a_foreign_or_newer_file_is_refused(path: Path) -> None:
    path.parent.mkdir()
    foreign = sqlite3.connect(path)
    foreign.execute("CREATE TABLE theirs (x)")
    foreign.close()
    with pytest.raises(ConfigError, match="is no journal of ours"):
        Journal(path)
    newer = path.with_name("newer.sqlite")
    Journal(newer).close()
    database = sqlite3.connect(newer)
    database.execute("PRAGMA user_version = 3")
    database.close()
    with pytest.raises(ConfigError, match="has version 3, newer than 2"):
        Journal(newer)


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be opened"):
        Journal(tmp_path)


CHILD = """
import sys
from collections.abc import Iterator
from pathlib import Path
from sglang_paste.calls import ToolCall
from sglang_paste.execute.base import Outcome
from sglang_paste.speculate.journal import Journal

journal = Journal(Path(sys.argv[1]))
for number in range(1_000_000):
    call = ToolCall(tenant="t", tool="read", arguments={}, call_id=f"c{number}")
    assert journal.begin(call).kind == "fresh"
    print("begun", number, flush=True)
    journal.finish(call, Outcome(content=str(number)))
    print("finished", number, flush=True)
"""


def test_it_survives_kill_9_and_two_processes_never_share_it(path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        for line in child.stdout:
            if line == "finished 200\n":
                break
        with pytest.raises(ConfigError, match="is in use by another process"):
            Journal(path)
    finally:
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read()
        child.wait()
        child.stdout.close()
    journal = Journal(path)
    words = [line.split() for line in rest.splitlines() if line.count(" ") == 1 and not line.endswith(" ")]
    seen = {int(number) for _, number in words[:-1]} | set(range(201))
    done = {int(number) for word, number in words[:-1] if word == "finished"} | set(range(201))
    for number in seen:
        begun = journal.begin(make_call(f"c{number}"))
        assert begun.kind in ("replay", "unknown")
        if number in done:
            assert begun.outcome == Outcome(content=str(number))
