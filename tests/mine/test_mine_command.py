"""`sglang-paste mine` and `sglang-paste eval`, from files to files."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest
from recorded import as_atif, as_openai, as_own, lookups

from sglang_paste import cli
from sglang_paste.mine import progress
from sglang_paste.mine.records import Session, Turn
from sglang_paste.predict import load, patternfile
from sglang_paste.predict.patterns import Patterns


def written(folder: Path, *sessions: Session, form: Any = as_own, name: str = "some.jsonl") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps(form(session)) + "\n" for session in sessions))
    return folder


def test_mined_patterns_predict_the_next_session(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = written(tmp_path / "in", *(lookups("shop", number) for number in range(30)))
    written(folder, *(lookups("fair", number) for number in range(30, 45)), form=as_openai, name="b.jsonl")
    written(folder, lookups("hall", 46), form=as_atif, name="c.jsonl")
    with (folder / "some.jsonl").open("a") as file:
        file.write("{oops\n")
    one, other = tmp_path / "one", tmp_path / "other"
    assert cli.main(["mine", str(folder), "-o", str(one)]) == 0
    told = capsys.readouterr()
    assert told.out.startswith("46 sessions with 92 calls in 3 files, 1 malformed lines skipped\n")
    assert f"{one}: {one.stat().st_size:,} bytes, SHA-256 " in told.out
    assert f"{folder / 'some.jsonl'}:31: " in told.err
    assert cli.main(["mine", str(folder), "-o", str(other), "--quiet"]) == 0
    assert one.read_bytes() == other.read_bytes()
    session = load(one).session()
    session.observe({"role": "user", "content": "please tell me all about order-0500 in words of your own"})
    [best] = session.candidates(1)
    assert (best.tool, best.arguments) == ("find_order", {"order": "order-0500"})


def test_nothing_to_learn_from_is_refused_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = written(tmp_path / "in", Session("s", "s", "t", (Turn("user", "hello"),)))
    assert cli.main(["mine", str(folder), "-o", str(tmp_path / "out")]) == 2
    assert "there is no tool call to learn from (1 sessions with 0 calls in 1 files)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert cli.main(["mine", str(folder), "-o", str(tmp_path / "out"), "--min-tasks", "0"]) == 2


def test_what_is_shared_holds_no_call_verbatim(tmp_path: Path) -> None:
    folder, output = written(tmp_path / "in", *(lookups("shop", number) for number in range(20))), tmp_path / "out"
    for arguments, kept in (([], True), (["--shareable"], False)):
        assert cli.main(["mine", str(folder), "-o", str(output), "--quiet", *arguments]) == 0
        assert (b"order-0003" in output.read_bytes()) is kept
        assert bool(patternfile.load(output, Patterns).recollections) is kept


def test_tenants_are_kept_apart_unless_merged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = [msgspec.structs.replace(lookups("shop", number), tenant="ours") for number in range(20)]
    theirs = [msgspec.structs.replace(lookups("shop", number), tenant="theirs") for number in range(20, 40)]
    folder, output = written(tmp_path / "in", *ours, *theirs), tmp_path / "out"
    mine = ["mine", str(folder), "-o", str(output), "--quiet"]
    assert cli.main(mine) == 2
    assert "the sessions are of 2 tenants" in capsys.readouterr().err
    assert not output.exists()
    assert cli.main([*mine, "--tenant", "nobody"]) == 2
    for arguments, tenant in ((["--tenant", "ours"], "ours"), (["--merge-tenants"], "")):
        assert cli.main([*mine, *arguments]) == 0
        assert load(output).patterns.tenant == tenant


def evaluate(*arguments: str | Path) -> int:
    return cli.main(["eval", "--quiet", *map(str, arguments)])


def test_eval_keeps_tasks_that_were_trained_on_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = written(tmp_path / "train", *(lookups("shop", number) for number in range(40)))
    again, moved = lookups("shop", 7), lookups("shop", 8, task="another id")
    test = written(
        tmp_path / "test",
        lookups("shop", 5),
        Session("shop", "shop-6", "another", lookups("shop", 706).turns),
        Session("shop", "again", again.task_id, again.turns),
        Session("shop", "moved", moved.task_id, moved.turns),
        *(lookups("fair", number) for number in range(50, 60)),
    )
    report, drawn = tmp_path / "report.json", tmp_path / "plot.svg"
    assert evaluate("--train", train, "--test", test, "--json", report, "--plot", drawn) == 0
    told = capsys.readouterr().out
    found = json.loads(report.read_text())
    sizes = {(row["side"], row["source"], row["predictor"]): row["calls"] for row in found["rows"]}
    for name in ("mined", "bigram + copy", "most frequent"):
        assert sizes["unseen", "fair", name] == 20
        assert sizes["unseen", "macro average", name] == 22
        assert sizes["recurring", "shop", name] == 4
        assert sizes["unseen", "shop", name] == 2
    assert found["settings"]["k"] == "5"
    assert (found["trained_sessions"], found["tested_sessions"], found["left_out_sessions"]) == (40, 13, 1)
    rows = {(row["side"], row["source"], row["predictor"]): row for row in found["rows"]}
    assert rows["unseen", "fair", "mined"]["exact"][0] > 0.9
    assert rows["unseen", "fair", "bigram + copy"]["exact"][0] > 0.9
    assert rows["unseen", "shop", "most frequent"]["exact"] == [0, 0, 0]
    assert rows["unseen", "fair", "mined"]["seconds"] == 40.0
    assert found["decision_us"]["n"] == 13 * 3
    assert "1 test sessions were trained on themselves and are left out" in told
    assert "tasks that were trained on, in other sessions, %:" in told
    texts = [each.text for each in ElementTree.fromstring(drawn.read_text()).iter() if each.text]  # noqa: S314
    assert "fair, new tasks" in texts
    assert "shop, known tasks" in texts


def test_eval_splits_sessions_by_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sessions = [lookups("shop", number) for number in range(24)]
    same = [Session("shop", f"again-{s.session_id}", s.task_id, s.turns) for s in sessions]
    folder = written(tmp_path / "all", *sessions, *same)
    report = tmp_path / "report.json"
    assert evaluate("--sessions", folder, "--folds", "3", "--json", report) == 0
    rows = json.loads(report.read_text())["rows"]
    assert {row["side"] for row in rows} == {"unseen"}
    assert rows[0]["calls"] == 96
    assert evaluate("--sessions", folder, "--folds", "3", "--only-fold", "1", "--recurring", "--json", report) == 0
    rows = json.loads(report.read_text())["rows"]
    assert "recurring" in {row["side"] for row in rows}
    assert 0 < sum(row["calls"] for row in rows if row["predictor"] == "mined" and row["source"] == "shop") < 96
    assert "split into 3 by session" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--train", "IN"], "name --train and --test, or --sessions"),
        (["--sessions", "IN", "--train", "IN"], "leave out --train and --test"),
        (["--sessions", "IN", "--folds", "1"], "1 folds"),
        (["--sessions", "IN", "--json", "EMPTY"], "cannot be written"),
        (["--sessions", "IN", "--only-fold", "4"], "number 4, is no split"),
        (["--train", "IN", "--test", "EMPTY"], "there is no tool call to predict"),
    ],
)
def test_what_makes_no_sense_is_refused(
    arguments: list[str], why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"IN": written(tmp_path / "in", *(lookups("s", n) for n in range(8))), "EMPTY": tmp_path / "empty"}
    places["EMPTY"].mkdir()
    assert evaluate(*(places.get(argument, argument) for argument in arguments)) == 2
    assert why in capsys.readouterr().err


def test_faults_are_shown_up_to_a_limit(capsys: pytest.CaptureFixture[str]) -> None:
    shown = progress.Progress()
    for number in range(progress.MAX_FAULTS + 5):
        shown.fault(f"line {number}")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == progress.MAX_FAULTS + 1
    assert lines[-1] == "more such lines are counted and not shown"


class Terminal:
    def __init__(self, is_terminal: bool) -> None:
        self._is_terminal = is_terminal
        self.text = ""

    def isatty(self) -> bool:
        return self._is_terminal

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None:
        pass


@pytest.mark.parametrize(("is_terminal", "quiet"), [(True, False), (False, False), (True, True)])
def test_progress_is_shown_unless_it_is_not_wanted(
    is_terminal: bool, quiet: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(0, 1000, 10))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    out = Terminal(is_terminal)
    shown = progress.Progress(quiet=quiet, out=out)  # type: ignore[arg-type]
    shown.working("fitting", 0.5)
    shown.end()
    assert ("fitting: 50 %" in out.text) is not quiet
    assert ("\r" in out.text) is (is_terminal and not quiet)
