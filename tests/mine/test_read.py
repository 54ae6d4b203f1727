"""Recorded sessions read the same from every format, and what is malformed never takes the rest with it."""

import gzip
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from recorded import as_atif, as_openai, as_own, lookups, sessions

from sglang_paste.errors import ConfigError
from sglang_paste.mine.read import Reader, text
from sglang_paste.mine.read import lines as lines_module
from sglang_paste.mine.records import FORMATS, Call, Result, Session, Turn

WRITERS: dict[str, Callable[[Session], dict[str, Any]]] = {"sessions": as_own, "openai": as_openai, "atif": as_atif}
GOOD = json.dumps(as_own(lookups("shop", 1))).encode()


def read(path: Path, **more: Any) -> tuple[list[Session], Reader, list[str]]:
    told: list[str] = []
    reader = Reader([path], report=told.append, **more)
    return list(reader), reader, told


def written(folder: Path, *lines: bytes, name: str = "some.jsonl") -> Path:
    path = folder / name
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def check_same(folder: Path, form: str, session: Session) -> None:
    document = json.dumps(WRITERS[form](session)).encode()
    assert read(written(folder, document))[0] == [session]


@pytest.mark.parametrize("form", WRITERS)
def test_every_format_reads_back_the_same(form: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("same")

    @given(sessions())
    def check(session: Session) -> None:
        check_same(folder, form, session)

    check()


@pytest.mark.parametrize("form", ["openai", "atif"])
def test_the_property_catches_results_matched_by_their_order(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text.Pending, "_find", lambda self, *_: self._calls[0] if self._calls else None)

    @settings(phases=[Phase.generate])
    @given(sessions())
    def check(session: Session) -> None:
        check_same(tmp_path, form, session)

    with pytest.raises(AssertionError):
        check()


@pytest.mark.parametrize("form", WRITERS)
def test_one_document_over_many_lines_is_a_file_of_its_own(form: str, tmp_path: Path) -> None:
    session = next(iter(read(written(tmp_path, GOOD))[0]))
    path = tmp_path / "trajectory.json"
    path.write_text(json.dumps(WRITERS[form](session), indent=2))
    found, reader, _ = read(path)
    assert [each.session_id for each in found] == ["shop-1"]
    assert reader.counts.calls == 2


def test_folders_are_read_by_name_with_what_is_compressed(tmp_path: Path) -> None:
    below = tmp_path / "b"
    below.mkdir()
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(json.dumps(as_openai(lookups("x", 3))).encode()))
    written(tmp_path, json.dumps(as_atif(lookups("y", 2))).encode(), name="a.json")
    written(below, GOOD)
    (tmp_path / "README.md").write_text("not sessions")
    found, reader, told = read(tmp_path)
    assert [session.session_id for session in found] == ["y-2", "shop-1", "x-3"]
    assert (reader.counts.files, told) == (3, [])
    assert reader.bytes_read == reader.bytes_total > 0
    assert list(reader) == found


MALFORMED = [
    (b"{", "JSON is malformed|truncated"),
    (b"[]", "Expected `object`"),
    (b'"text"', "Expected `object`"),
    (b'{"turns": [{"role": "user", "content": "\xff"}]}', "utf-8|UTF-8"),
    (b'{"turns": [{"role": "user", "content": "\\ud800"}]}', "surrogate|truncated"),
    (b'{"turns": [{"role": "robot"}]}', "the role 'robot'"),
    (b'{"turns": [{"role": "assistant", "tool_calls": [{"name": "f"}]}]}', "arguments"),
    (b'{"turns": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "x"}]}]}', "arguments"),
    (b'{"turns": ' + b"[" * 30_000 + b"]" * 30_000 + b"}", "recursion|Expected"),
    (b'{"turns": [' + b" " * 70_000 + b"]}", "longer than 65536 bytes"),
]


@pytest.mark.parametrize(("line", "why"), MALFORMED)
def test_a_malformed_line_is_named_counted_and_skipped(
    line: bytes, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines_module.documents, "__defaults__", (65_536,))
    path = written(tmp_path, GOOD, b"", line, GOOD.replace(b"shop-1", b"shop-2"))
    found, reader, [told] = read(path)
    assert [session.session_id for session in found] == ["shop-1", "shop-2"]
    assert reader.counts.malformed == 1
    assert told.startswith(f"{path}:3: ")
    assert told.endswith("the line is skipped")
    assert any(part in told for part in why.split("|"))


def test_a_malformed_first_line_does_not_hide_the_format(tmp_path: Path) -> None:
    found, reader, told = read(written(tmp_path, b"{", GOOD))
    assert [session.session_id for session in found] == ["shop-1"]
    assert (reader.counts.malformed, len(told)) == (1, 1)


def test_a_cut_gzip_gives_what_came_before_the_cut(tmp_path: Path) -> None:
    path = tmp_path / "cut.jsonl.gz"
    many = b"".join(json.dumps(as_own(lookups("shop", number))).encode() + b"\n" for number in range(2000))
    path.write_bytes(gzip.compress(many)[:-2000])
    found, reader, told = read(path)
    assert 0 < len(found) < 2000
    assert reader.counts.malformed == len(told) <= 2
    assert "cannot be read any further" in told[-1]


def test_duplicates_and_empty_sessions_are_counted_and_skipped(tmp_path: Path) -> None:
    other = GOOD.replace(b'"shop"', b'"fair"')
    found, reader, told = read(written(tmp_path, GOOD, GOOD, b'{"turns": []}', other))
    assert [session.source for session in found] == ["shop", "fair"]
    assert (reader.counts.duplicates, reader.counts.empty, len(told)) == (1, 1, 1)
    assert str(reader.counts) == (
        "2 sessions with 4 calls in 1 files, 1 duplicate sessions skipped, 1 empty sessions skipped"
    )


def test_a_foreign_file_of_a_folder_is_skipped_and_a_named_one_refused(tmp_path: Path) -> None:
    path = written(tmp_path, b'{"requests": []}')
    found, reader, told = read(tmp_path)
    assert (found, reader.counts.foreign, len(told)) == ([], 1, 1)
    with pytest.raises(ConfigError, match=f"some.jsonl holds no sessions in a known format.*{FORMATS[0]}"):
        read(path)
    with pytest.raises(ConfigError, match="does not exist"):
        read(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="is no SQLite file"):
        read(path, form="journal")


def test_a_forced_format_is_kept_to(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    assert read(path, form="sessions")[0]
    found, reader, _ = read(path, form="openai")
    assert (found, reader.counts.malformed) == ([], 1)


def test_openai_calls_that_are_no_json_are_left_out_and_the_rest_is_kept(tmp_path: Path) -> None:
    conversation = {
        "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "be"}, {"type": "text", "text": "kind"}]},
            {"role": "user", "content": None},
            {"role": "assistant", "function_call": {"name": "old", "arguments": ""}},
            {"role": "function", "name": "old", "content": "done"},
            {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{oops"}}]},
        ]
    }
    [session], reader, [told] = read(written(tmp_path, json.dumps(conversation).encode()))
    assert session.turns == (
        Turn("system", "be\nkind"),
        Turn("user"),
        Turn("assistant", "", (Call("old", {}),)),
        Turn("tool", tool_results=(Result("old", "done"),)),
        Turn("assistant"),
    )
    assert session.task_id == session.session_id
    assert reader.counts.left_out == 1
    assert "some.jsonl:1: a call of 'f' is left out: the arguments are not JSON" in told


def test_conversations_without_ids_are_told_apart_by_what_they_say(tmp_path: Path) -> None:
    one, other = ({"messages": [{"role": "user", "content": said}]} for said in ("What is  this?", "and that"))
    again = {"messages": [{"role": "user", "content": "what is THIS"}, {"role": "assistant", "content": "hm"}]}
    found, reader, _ = read(written(tmp_path, *(json.dumps(each).encode() for each in (one, other, one, again))))
    assert reader.counts.duplicates == 1
    assert found[0].task_id == found[2].task_id != found[1].task_id


def test_atif_subagents_are_sessions_and_surroundings_speak_as_users(tmp_path: Path) -> None:
    step = {"step_id": 1, "source": "agent", "timestamp": "2025-10-16T14:30:00Z", "message": [{"text": "hm"}]}
    below = {"schema_version": "ATIF-v1.7", "trajectory_id": "t", "agent": {"name": "sub", "version": "1"}, "steps": []}
    call = {"tool_call_id": "c", "function_name": "f", "arguments": {}}
    steps = [{**step, "observation": {"results": [{"content": "boot"}]}}, {**step, "tool_calls": [call]}]
    whole = {
        "schema_version": "ATIF-v1.7",
        "agent": {"name": "main", "version": "1"},
        "steps": [*steps, {**step, "tool_calls": [call], "observation": {"results": [{"content": None}]}}],
        "subagent_trajectories": [{**below, "steps": [step]}],
    }
    [main, sub], _, _ = read(written(tmp_path, json.dumps(whole).encode()))
    at = 1760625000.0
    made = (Call("f", {}, "c"),)
    assert main.turns == (
        Turn("assistant", "hm", t_start=at),
        Turn("user", "boot"),
        Turn("assistant", "hm", made, t_start=at),
        Turn("assistant", "hm", made, t_start=at),
        Turn("tool", tool_results=(Result("f", "", "c"),)),
    )
    assert (sub.source, sub.session_id, sub.turns) == ("sub", "t", (Turn("assistant", "hm", t_start=at),))
    wrong = {**whole, "schema_version": "ATIF-v2.0"}
    assert "ATIF-v1.x can be read" in read(written(tmp_path, json.dumps(wrong).encode()))[2][0]


def test_reading_keeps_no_more_than_one_session(tmp_path: Path) -> None:
    big = "x" * 300_000
    path = tmp_path / "big.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for number in range(24):
            turn = {"role": "user", "content": f"{number} {big}"}
            file.write(json.dumps({"session_id": str(number), "turns": [turn]}).encode() + b"\n")
    tracemalloc.start()
    try:
        assert sum(1 for _ in Reader([path])) == 24
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3_500_000
