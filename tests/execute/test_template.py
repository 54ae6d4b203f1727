from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_paste.errors import BadArguments
from sglang_paste.execute.template import MAX_ITEM_BYTES, ArgvTemplate, Item

ANY = st.characters(exclude_characters="\0", exclude_categories=["Cs"])
TEXT = st.one_of(st.text(" -{}'\"$;\n", max_size=8), st.text(ANY, max_size=20))
SEPARATE = ("prog", "--first={first}", "--", "{second}", "end")


def render(*argv: str | tuple[str, ...], **arguments: Any) -> list[str]:
    return ArgvTemplate(argv).render(arguments)


def test_each_kind_of_value_has_one_text() -> None:
    assert render("p", "{s}", "{i}", "{f}", "{b}", s="a b", i=3, f=0.5, b=True) == ["p", "a b", "3", "0.5", "true"]
    assert render("p", "{o}", "{*}", o={"b": 1, "a": "é"})[1:] == ['{"a":"é","b":1}', '{"o":{"a":"é","b":1}}']


def test_absent_arguments_leave_their_item_or_group_out() -> None:
    argv = ("p", "{a}", "--b={b}", ("-c", "{c}"), "end")
    assert render(*argv) == ["p", "end"]
    assert render(*argv, a=None, b=None, c=None) == ["p", "end"]
    assert render(*argv, a="1", b="2", c="3") == ["p", "1", "--b=2", "-c", "3", "end"]


def test_arrays_repeat_the_item_or_the_group() -> None:
    assert render("p", "{a}", a=["x", 1, True]) == ["p", "x", "1", "true"]
    assert render("p", "-i{a}", a=["x", "y"]) == ["p", "-ix", "-iy"]
    assert render("p", ("-e", "{a}"), a=["x", "y"]) == ["p", "-e", "x", "-e", "y"]
    assert render("p", "{a}", ("-e", "{a}"), a=[]) == ["p"]
    with pytest.raises(BadArguments, match="a and b are arrays"):
        render("p", "{a}{b}", a=["1"], b=["2"])


def test_a_boolean_alone_in_a_group_decides_about_it() -> None:
    argv = ("p", ("--all", "{all}"))
    assert render(*argv, all=True) == ["p", "--all"]
    assert render(*argv, all=False) == ["p"]
    assert render(*argv) == ["p"]


@pytest.mark.parametrize("value", ["-rf", "--output=/etc/passwd", "-", -5, ["ok", "-x"]])
def test_a_value_never_becomes_an_option(value: Any) -> None:
    for argv in (("p", "{a}"), ("p", "{a}.txt"), ("p", ("-n", "{a}"))):
        with pytest.raises(BadArguments, match="begins with '-'"):
            render(*argv, a=value)
    assert render("p", "--a={a}", a="-x") == ["p", "--a=-x"]
    assert render("p", "--", "{a}", a="-x") == ["p", "--", "-x"]


def test_what_no_program_can_be_given_is_refused() -> None:
    with pytest.raises(BadArguments, match="NUL"):
        render("p", "{a}", a="x\0y")
    with pytest.raises(BadArguments, match="can be given"):
        render("p", "{a}", a="x" * (MAX_ITEM_BYTES + 1))
    with pytest.raises(BadArguments, match="together"):
        render("p", "{a}", a=["x" * 100_000] * 12)


@pytest.mark.parametrize("text", ["{", "}", "{}", "a{b", "{a}}"])
def test_braces_that_are_no_placeholder_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="for a brace"):
        Item.parse(text)


def test_doubled_braces_are_braces() -> None:
    assert render("p", "{{{a}}} {{a}}", a="x") == ["p", "{x} {a}"]


def shell_like(argv: tuple[str, ...], arguments: dict[str, str]) -> list[str]:
    """The negative control: fill in first, split afterwards."""
    text = " ".join(argv)
    for name, value in arguments.items():
        text = text.replace(f"{{{name}}}", value)
    return text.split(" ")


def one_item_each(rendered: list[str], first: str, second: str) -> bool:
    return rendered == ["prog", f"--first={first}", "--", second, "end"]


@given(TEXT, TEXT)
def test_each_value_ends_in_exactly_one_item(first: str, second: str) -> None:
    assert one_item_each(render(*SEPARATE, first=first, second=second), first, second)


def test_the_property_catches_a_template_that_splits() -> None:
    @given(TEXT, TEXT)
    def broken(first: str, second: str) -> None:
        assert one_item_each(shell_like(SEPARATE, {"first": first, "second": second}), first, second)

    with pytest.raises(AssertionError):
        broken()


@given(st.lists(TEXT, min_size=1, max_size=5))
def test_an_array_has_one_item_for_each_element(values: list[str]) -> None:
    assert render("p", "--", "{a}", a=values) == ["p", "--", *values]


@given(st.dictionaries(st.sampled_from("ab"), st.one_of(TEXT, st.integers(), st.booleans(), st.none(), st.lists(TEXT))))
def test_no_item_that_begins_with_a_value_begins_with_a_dash(arguments: dict[str, Any]) -> None:
    try:
        rendered = ArgvTemplate(("p", "{a}", "{b}x")).render(arguments)
    except BadArguments:
        return
    assert not any(item.startswith("-") for item in rendered)
