"""Which calls could be cut from a wider one."""

import pytest

from sglang_paste.calls import Arguments
from sglang_paste.mine.derive import Earlier, base, base_key, may_write


@pytest.mark.parametrize(
    ("command", "wide"),
    [
        ("pytest -x | tail -5", "pytest -x"),
        ("pytest -x 2>&1 | grep -v 'a | b' | head", "pytest -x 2>&1"),
        ("grep a b", "grep a b"),
        ("cat a | sed -n '1,5p'", "cat a"),
        ("cat a | sed s/a/b/", "cat a | sed s/a/b/"),
        ("make | tee log", "make | tee log"),
        ("make | head > log", "make | head > log"),
        ("make || head", "make || head"),
        ("a | head; b", "a | head; b"),
        (r"a \| head", r"a \| head"),
        ("a 'b | head'", "a 'b | head'"),
        ("a | grep 'x", "a | grep 'x"),
        ("", ""),
    ],
)
def test_filters_behind_the_last_pipe_are_taken_off(command: str, wide: str) -> None:
    assert base("Bash", {"command": command}) == ("Bash", {"command": wide})


def test_windows_are_taken_off_and_texts_of_that_name_are_not() -> None:
    assert base("Read", {"path": "a", "offset": 5, "limit": 10}) == ("Read", {"path": "a"})
    assert base("Ask", {"start": "Monday"}) == ("Ask", {"start": "Monday"})
    assert base_key("f", {"a": "\ud800"}) is None
    assert base_key("f", {"a": 1, "why": "x"}, ["why"]) == base_key("f", {"a": 1})


@pytest.mark.parametrize(
    ("tool", "arguments", "writes"),
    [
        ("Read", {"path": "a"}, False),
        ("Edit", {"path": "a"}, True),
        ("TodoWrite", {}, False),
        ("Bash", {"command": "cd a && git status | head"}, False),
        ("Bash", {"command": "git commit -m x"}, True),
        ("Bash", {"command": "git"}, True),
        ("Bash", {"command": "ls > a"}, True),
        ("Bash", {"command": "ls 2>/dev/null"}, False),
        ("Bash", {"command": "find . -delete"}, True),
        ("Bash", {"command": "echo $(rm a)"}, True),
        ("Bash", {"command": "python x.py"}, True),
    ],
)
def test_what_may_write_is_told_by_name_and_command(tool: str, arguments: Arguments, writes: bool) -> None:
    assert may_write(tool, arguments) is writes


def test_an_earlier_result_is_good_until_something_may_have_written() -> None:
    earlier, whole = Earlier(), base_key("Read", {"path": "a"})
    assert not earlier.has(whole)
    earlier.made("Read", {"path": "a"}, whole)
    assert earlier.has(base_key("Read", {"path": "a", "offset": 3}))
    earlier.made("Edit", {"path": "b"}, base_key("Edit", {"path": "b"}))
    assert not earlier.has(whole)
    assert not earlier.has(None)
