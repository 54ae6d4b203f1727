import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_paste.predict.program import (
    MAX_LEAVES,
    Constant,
    Copied,
    Earlier,
    History,
    Path,
    canonical_text,
    texts,
)

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(alphabet=st.characters(exclude_categories=["Cs"]))
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5)
)


def at(value: Any, path: Path) -> Any:
    for step in path:
        value = value[step]
    return value


def copies_are_exact(value: Any, name_of: Any = canonical_text) -> bool:
    """Whether every copy the history can make of a result is the value that stands there, exactly."""
    history = History()
    history.push("tool", {}, json.dumps(value))
    for wanted in _scalars(value):
        for program in history.explain("argument", name_of(wanted)):
            if isinstance(program, Copied):
                found = at(value, program.path)
                if (type(found), repr(found)) != (type(wanted), repr(wanted)):
                    return False
                assert history.build(program) == name_of(wanted)
    return True


def _scalars(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in _scalars(item)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in _scalars(item)]
    return [value]


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=8), VALUES, max_size=5) | st.lists(VALUES, max_size=5))
def test_a_copy_is_the_copied_value_exactly(value: Any) -> None:
    assert copies_are_exact(value)


def test_a_copy_by_equality_would_not_be_exact() -> None:
    def careless(value: Any) -> str:
        return canonical_text(int(value)) if isinstance(value, bool | float) else canonical_text(value)

    assert not copies_are_exact([1, True, 1.0], careless)


@settings(deadline=None)
@given(VALUES)
def test_canonical_text_reads_back(value: Any) -> None:
    assert json.loads(canonical_text(value)) == value


@pytest.mark.parametrize(
    ("content", "path", "text"),
    [
        ('{"hits": [{"file": "a.py"}]}', ("hits", 0, "file"), '"a.py"'),
        ("a.py\n  b.py  \n\nc.py\n", (1,), '"b.py"'),
        ('"just a text"', (), '"just a text"'),
        ('{"cut": [1, 2', (0,), '"{\\"cut\\": [1, 2"'),
        ('{"files": ["a", "b"]}', ("files",), '["a","b"]'),
    ],
)
def test_results_are_read_as_json_or_as_lines(content: str, path: Path, text: str) -> None:
    history = History()
    history.push("tool", {}, content)
    assert history.build(Copied("tool", path)) == text


@pytest.mark.parametrize("content", ["", "   ", "[" * 100_000, '{"a":' * 5000, "x" * 1_000_000, "[NaN]", '"\ud800"'])
def test_odd_results_disturb_nothing(content: str) -> None:
    history = History()
    history.push("tool", {}, content)
    assert history.build(Copied("tool", ("nothing",))) is None


def test_huge_results_are_read_in_bounded_part() -> None:
    history = History()
    history.push("tool", {}, json.dumps({f"k{at}": list(range(at * 100, at * 100 + 50)) for at in range(80)}))
    found = [program for value in range(8000) for program in history.explain("x", str(value))]
    assert 0 < sum(isinstance(program, Copied) for program in found) <= MAX_LEAVES


def test_explanations_of_a_value() -> None:
    history = History()
    history.push("search", {"path": '"src/a.py"'}, '{"hits": ["src/a.py"]}')
    found = list(history.explain("path", '"src/a.py"'))
    assert found == [Copied("search", ("hits", 0)), Earlier("path"), Constant('"src/a.py"')]
    assert list(history.explain("flag", "true")) == [Constant("true")]


def test_secrets_are_never_constants() -> None:
    history = History()
    assert history.explain("password", '"short"') == ()
    assert history.explain("header", '"Bearer abcdef123456"') == ()
    assert history.explain("env", '{"API_KEY":"x"}') == ()


def test_only_the_latest_results_are_kept() -> None:
    history = History()
    for tool in "abcd":
        history.push(tool, {}, '"result"')
    assert history.build(Copied("a", ())) is None
    assert history.build(Copied("d", ())) == '"result"'


def test_arguments_too_large_are_not_predicted() -> None:
    assert texts({"a": 1}) == {"a": "1"}
    assert texts({"a": "x" * 100_000}) is None
    assert texts({str(at): at for at in range(100)}) is None
    assert texts({"n" * 300: 1}) is None
