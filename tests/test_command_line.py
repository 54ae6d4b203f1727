"""Which shell commands only read. The shell itself is the judge: what passes is run, and may change nothing."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sglang_paste.command_line import fault, only_reads

READS = (
    "ls",
    "cat",
    "grep",
    "find",
    "sort",
    "sed",
    "uniq",
    "head",
    "wc",
    "echo",
    "cd",
    "git log",
    "date",
    "python -m x",
)

# Every one of them does harm in some way, and none of them outside of the folder that it runs in.
PARTS = [
    *("ls", "cat", "find", "grep a", "sort", "uniq", "sed", "echo", "head", "wc", "cd", "touch new", "rm a", "tee new"),
    *(
        "a",
        "b",
        ".",
        "new",
        "-n",
        "1p",
        "1w new",
        "-delete",
        "-name",
        "-exec",
        "rm",
        "{}",
        "+",
        "-o",
        "-onew",
        "--output",
    ),
    *("-fprint", "-i", "s/./x/", "-?elete", "--out*", "x=1", "-print", "1,2p"),
    *(";", "&", "&&", "|", "||", "|&", "\n", "\r", "\t", "#", "!", "(", ")", "{", "}", "2", "3", "<", "<<", "<<<"),
    *(">", ">>", ">|", "&>", "2>", "2>&1", ">&2", ">&", "/dev/null", ">/dev/null", ">/dev/nullx", "2>/dev/null"),
    *("'", '"', "\\", "`", "$", "$(", "${IFS}", "$'", "*", "?", "[", "]", "~", "=", "-", "\\\n", "\u00a0", "é", "\x0b"),
]


EXAMPLES = 1500
BEGUN = [
    *(
        "cat a",
        "ls -n a",
        "find . -name a",
        "cat a | sort -n",
        "grep a a && echo b",
        "sed -n 1p a",
        "head 'a b'",
        "sort a",
    ),
    *("cat a 2>&1 | uniq", "wc a >/dev/null", 'echo "a"; ls', "uniq", "cd . && cat ./a", "find ./-delete", "echo \\a"),
]


@st.composite
def lines(draw: st.DrawFn) -> str:
    """A command that only reads, with a few parts thrown in."""
    text = draw(st.sampled_from(BEGUN))
    for _ in range(draw(st.integers(1, 3))):
        place, part = draw(st.integers(0, len(text))), draw(st.sampled_from(PARTS))
        before, after = draw(st.sampled_from(["", " "])), draw(st.sampled_from(["", " "]))
        text = text[:place] + before + part + after + text[place:]
    return text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b", "-delete", "--output=new"):
        (tmp_path / name).write_text(f"{name}\nx\n")
    return tmp_path


def held(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() if path.is_file() else "" for path in folder.iterdir()}


def changes(folder: Path, text: str) -> bool:
    before = held(folder)
    argv = ["bash", "--norc", "-c", text]
    subprocess.run(argv, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False)
    if held(folder) == before:
        return False
    for name in held(folder).keys() - before.keys():
        (folder / name).unlink()
    for name, content in before.items():
        (folder / name).write_text(content)
    return True


def judge(rule: Callable[[str], bool], folder: Path, examples: int) -> None:
    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
    )
    @given(lines())
    def look(text: str) -> None:
        if "\0" not in text and rule(text):
            assert not changes(folder, text), text

    look()


def test_what_only_reads_changes_nothing(folder: Path) -> None:
    judge(lambda text: only_reads(text, READS), folder, EXAMPLES)


def _by_its_first_word(text: str) -> bool:
    return re.match(r"(ls|cat|grep|find|sort|echo)\b", text) is not None


def _by_every_first_word(text: str) -> bool:
    return ">" not in text and all(_by_its_first_word(part.strip()) for part in re.split(r"[;|&]+", text))


@pytest.mark.parametrize("rule", [_by_its_first_word, _by_every_first_word])
def test_a_rule_that_can_be_fooled_is_found_out(folder: Path, rule: Callable[[str], bool]) -> None:
    with pytest.raises(AssertionError):
        judge(rule, folder, EXAMPLES)


@pytest.mark.parametrize(
    "text",
    [
        "ls",
        "  ls -la\t/x ",
        "cd /testbed && python -m x tests/a.py::b -x 2>&1 | head -50",
        "grep -rn \"foo\\|ba'r\" --include=*.py src/ 2>/dev/null || echo 'a; rm b'",
        "find . -name '*.py' -not -path \"./x/*\" \\( -size -10k -o -type f \\) | sort -u -k2 | uniq -c",
        "git log --oneline -5; sed -n '1,20p' src/a.py >&2",
        "cat 'a\nb' &>/dev/null",
    ],
)
def test_what_agents_ask_for_to_read(text: str) -> None:
    assert only_reads(text, READS)


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "ls;", "ls ;; ls", "| ls", "ls &", "ls & rm a", "ls\nrm a", "ls |& cat", "lsx", "/bin/ls", "x=1 ls"),
        *(
            "cat a > b",
            "cat a >> b",
            "cat a 2>&1>b",
            "cat >/dev/null/../b",
            "cat <(rm a)",
            "cat < a",
            "cat 3>/dev/null",
        ),
        *("ls $(rm a)", "ls `rm a`", 'ls "$(rm a)"', 'ls "`rm a`"', "cat 3>/dev/null", "ls $x", "ls $'a'", "ls {a,b}"),
        *("ls *", "ls ?", "cat -*", "cat [a]", "ls 'a", 'ls "a', "ls \\", "ls \\\nrm", "ls a\u00a0b", "ls \x00"),
        *(
            "find . -delete",
            "find . -exec rm {} +",
            "find . '-de'lete",
            "find . \\-delete",
            "find -fprint a",
            "sort -o a a",
        ),
        *(
            "sort -uo a a",
            "sort --outp=a a",
            "sed -i s/a/b/ a",
            "sed -n 1w/a a",
            "sed s/a/b/e a",
            "uniq a b",
            "uniq src/*",
        ),
        *(
            "git push",
            "git",
            "git -c a=b log",
            "git log --output=a",
            "git log --ext-diff",
            "date 01010101",
            "date -s x",
        ),
        *("python -m y", "python -c x", "python", "time ls", "ls && rm a", "f() { ls; }", "if ls", "ls\r", "ls !x"),
        *("x" * 10_000, "ls " + "a" * 10_000),
    ],
)
def test_what_is_not_known_to_read_may_write(text: str) -> None:
    assert not only_reads(text, READS)


@pytest.mark.parametrize("value", [None, 3, ["ls"], {"ls": 1}, b"ls", True])
def test_what_is_no_text_may_write(value: object) -> None:
    assert not only_reads(value, READS)


@pytest.mark.parametrize("text", ["'" * 8001, "\\\\" * 4000, '"\\' * 4000, "a|" * 4000, "a" * 8000 + "\n", ">" * 8000])
def test_a_long_text_takes_no_longer_than_its_length(text: str) -> None:
    assert not only_reads(text, READS)


@pytest.mark.parametrize(
    ("command", "why"),
    [
        *(
            (command, "can do anything")
            for command in ("bash", "/bin/sh", "xargs", "env", "sudo ls", "awk", "x=1", ".")
        ),
        *(
            (command, "can do anything")
            for command in ("python", "python3 -c", "/usr/bin/python3.11 a.py", "python -m")
        ),
        *((command, "a part of it that reads") for command in ("git", "git push", "git -C x")),
        *((command, "alone") for command in ("find . -delete", "git log --output=x", "sed -n", "ls && ls", "ls | cat")),
        *((command, "is not understood") for command in ("ls $x", "ls > a", "'ls", "ls\nls")),
        ("", "empty"),
        ("ls *", "a pattern"),
    ],
)
def test_what_an_operator_cannot_mean(command: str, why: str) -> None:
    assert why in (fault(command) or "")


def test_what_an_operator_names() -> None:
    assert [command for command in READS if fault(command)] == []
