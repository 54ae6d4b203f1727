"""The rows of a replay as a file."""

from pathlib import Path

from replay_rows import block, example, place, task, turn

from bench.replay.records import append_rows, read_rows


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    append_rows(file, example())
    assert read_rows(file) == example()


def test_a_block_that_was_cut_off_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    append_rows(file, [task(place("A")), block(place("A"))])
    append_rows(file, [task(place("F"), "s1"), task(place("F"), "s2")])
    with file.open("r+b") as cut:
        cut.truncate(file.stat().st_size - 20)
    assert read_rows(file) == [task(place("A")), block(place("A"))]
    again = [task(place("F"), "s1"), task(place("F"), "s2"), block(place("F"))]
    append_rows(file, again)
    assert read_rows(file) == [task(place("A")), block(place("A")), *again]


def test_a_block_counts_once(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    for _ in range(2):
        append_rows(file, [task(place("A")), block(place("A"))])
    assert len(read_rows(file)) == 2


def test_accept_length_is_tokens_a_decode_step() -> None:
    assert turn(output=41, steps=10).accept_length == 4.0
    assert turn(output=1, steps=0).accept_length == 1.0
