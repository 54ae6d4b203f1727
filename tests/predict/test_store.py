import os
import sqlite3
import stat
from pathlib import Path
from typing import Any

import anyio
import pytest

from sglang_paste.calls import DEFAULT_TENANT, SessionId, TenantId, ToolCall
from sglang_paste.errors import ConfigError
from sglang_paste.events import CallReady
from sglang_paste.predict import Candidate, Predictor, Predictors
from sglang_paste.predict.memory import BATCH
from sglang_paste.predict.store import Row, Store


def call(tool: str, arguments: dict[str, Any], tenant: str = DEFAULT_TENANT) -> ToolCall:
    return ToolCall(tenant=TenantId(tenant), session=SessionId("s"), tool=tool, arguments=arguments)


def teach(predictors: Predictors, rounds: int = 5) -> None:
    for at in range(rounds):
        predictors.confirm(call("search", {"query": f"q{at}"}), f"src/{at}.py\nother", 0.25, ok=True)
        predictors.confirm(call("read", {"path": f"src/{at}.py", "mode": "fast"}), "text", 0.5, ok=True)


def offered(predictors: Predictors) -> list[Candidate]:
    return predictors.confirm(call("search", {"query": "new"}), "src/new.py\nother", 0.25, ok=True)


def path_of(directory: Path) -> Path:
    return directory / "patterns.sqlite"


def test_what_was_learned_survives_a_restart(tmp_path: Path) -> None:
    first = Predictors(str(tmp_path / "state"))
    teach(first)
    first.close()
    first.close()
    second = Predictors(str(tmp_path / "state"))
    found = offered(second)
    assert found[0].arguments == {"path": "src/new.py", "mode": "fast"}
    assert second.run_time(DEFAULT_TENANT, "read").p50 == 0.5
    assert second.run_time(TenantId("another"), "read") == Predictors(None).run_time(DEFAULT_TENANT, "x")
    second.close()
    assert stat.S_IMODE(os.stat(path_of(tmp_path / "state")).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(tmp_path / "state").st_mode) == 0o700


def test_a_save_writes_a_batch_and_close_the_rest(tmp_path: Path) -> None:
    predictors = Predictors(str(tmp_path))
    for at in range(BATCH + 50):
        predictors.confirm(ToolCall(tenant=DEFAULT_TENANT, tool=f"t{at}", arguments={}), "", 0.1, ok=True)
    anyio.run(predictors.save)
    with sqlite3.connect(path_of(tmp_path)) as database:
        assert database.execute("SELECT count(*) FROM learned").fetchone() == (BATCH,)
    database.close()
    predictors.close()
    store = Store(path_of(tmp_path))
    assert len(list(store.load())) == BATCH + 50
    store.close()


def test_a_save_that_fails_is_tried_again(tmp_path: Path) -> None:
    predictors = Predictors(str(tmp_path))
    teach(predictors)
    store = predictors._memory._store
    assert store is not None
    store._database.execute("PRAGMA query_only = ON")
    anyio.run(predictors.save)
    assert predictors.failed_saves == 1
    store._database.execute("PRAGMA query_only = OFF")
    predictors.close()
    again = Predictors(str(tmp_path))
    assert offered(again)[0].arguments["path"] == "src/new.py"
    again.close()


def test_secrets_never_reach_the_file(tmp_path: Path) -> None:
    token = "ghp_" + "a1B2c3D4e5" * 4
    predictors = Predictors(str(tmp_path))
    for _ in range(4):
        predictors.confirm(call("login", {"token": "opensesame", "user": "ann"}), f'{{"{token}": 1}}', 0.1, ok=True)
        predictors.confirm(call("fetch", {"url": f"https://x/?key={token}", "n": 1}), token, 0.1, ok=True)
    predictors.close()
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"login" in kept
    assert b"ann" in kept
    assert b"opensesame" not in kept
    assert token.encode() not in kept


def refused(directory: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        Predictors(str(directory))
    message = str(caught.value)
    assert "patterns.sqlite" in message
    assert "\n" not in message
    return message


def test_a_foreign_database_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(path_of(tmp_path)) as database:
        database.execute("CREATE TABLE bookmarks (url TEXT)")
    database.close()
    assert "some other program's" in refused(tmp_path)


def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    Predictors(str(tmp_path)).close()
    with sqlite3.connect(path_of(tmp_path)) as database:
        database.execute("PRAGMA user_version = 9")
    database.close()
    assert "newer version (schema 9" in refused(tmp_path)


@pytest.mark.parametrize(
    ("kind", "key", "body"),
    [
        ("tool", "read", b"{"),
        ("tool", "read", b'{"claimed": {"hits": -1}}'),
        ("tool", "read", b"\xff"),
        ("tool", "read", 7),
        ("odd", "read", b"{}"),
        ("context", "read", b"{}"),
        ("context", '["read", true]', b'{"follows": {"t": {"next": 1}}}'),
    ],
)
def test_a_damaged_row_is_refused(tmp_path: Path, kind: str, key: str, body: object) -> None:
    Predictors(str(tmp_path)).close()
    with sqlite3.connect(path_of(tmp_path)) as database:
        database.execute("INSERT INTO learned VALUES ('default', ?, ?, 0.0, ?)", (kind, key, body))
    database.close()
    assert "damaged" in refused(tmp_path)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path_of(tmp_path).write_text("these are not the bytes of a database" * 100)
    assert "damaged" in refused(tmp_path)


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    predictors = Predictors(str(tmp_path))
    teach(predictors, 50)
    predictors.close()
    content = path_of(tmp_path).read_bytes()
    path_of(tmp_path).write_bytes(content[: len(content) // 2 + 100])
    assert "damaged" in refused(tmp_path)


def test_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("")
    path_of(tmp_path).symlink_to(tmp_path / "elsewhere")
    assert "cannot be opened" in refused(tmp_path)


def test_deleted_rows_are_gone(tmp_path: Path) -> None:
    store = Store(path_of(tmp_path))
    store.write([Row("t", "tool", "a", b"{}"), Row("t", "tool", "b", b"{}")])
    store.write([Row("t", "tool", "a", None)])
    assert [row.key for row in store.load()] == ["b"]
    store.close()


def test_the_surer_of_two_predictors_is_heard() -> None:
    predictors: Predictor = Predictors(None)
    for _ in range(5):
        predictors.confirm(call("a", {}), "", 0.1, ok=True)
        predictors.confirm(call("b", {"x": 1}), "", 0.1, ok=True)
    predictors.confirm(call("a", {}), "", 0.1, ok=True)
    said: dict[str, Any] = {"tenant": DEFAULT_TENANT, "session": SessionId("s"), "request": "r", "position": 0}
    found = predictors.observe(CallReady(**said, time=0.0, index=0, tool="b", arguments='{"x":1}'))
    assert [(one.source, one.arguments) for one in found] == [("stream", {"x": 1})]
