"""Templates rendered from where they can be resumed: always the text of the whole."""

import random
from typing import Any

import jinja2.ext
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import Template
from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sglang_paste.patches import turn_template
from sglang_paste.patches.turn_template import Rendering, Resumable, same

PLAIN = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.calls %}{{ m.calls | tojson }}{% endif %}{% endfor %}>"
)
# How many rounds of the last rendering a longer conversation of 9 messages can keep of the 8 it had, at least.
TEMPLATES: dict[str, tuple[str, int]] = {
    "plain": (PLAIN, 8),
    "system first": (
        "{% if messages[0].role == 'system' %}{{ messages[0].content }}{% set rest = messages[1:] %}"
        "{% else %}{% set rest = messages %}{% endif %}"
        "{% for m in rest %}({{ m.content }}){% endfor %}{% if add_generation_prompt %}<a>{% endif %}",
        7,
    ),
    "knows the last": (
        "{% for m in messages %}{{ m.content }}{% if loop.last %}!{% else %},{% endif %}{% endfor %}",
        7,
    ),
    "looks around": (
        "{% for m in messages %}{% if loop.previtem is defined and loop.previtem.role == m.role %}&{% endif %}"
        "{{ m.content }}{% if loop.nextitem is defined and loop.nextitem.role == 'tool' %}→{% endif %}{% endfor %}",
        7,
    ),
    "indexes": (
        "{% for m in messages %}{% if loop.index0 and messages[loop.index0 - 1].role == 'tool' %}t{% endif %}"
        "{{ m.content }}{% if not loop.last and messages[loop.index0 + 1].role != 'tool' %};{% endif %}{% endfor %}",
        7,
    ),
    "counts": ("{% for m in messages %}{{ loop.index }}/{{ loop.length }} {{ m.content }}{% endfor %}", 0),
    "asks how many": ("{% for m in messages %}{{ messages | length }}{{ m.content }}{% endfor %}", 0),
    "the last of all": ("{% for m in messages %}{{ m.content }}{{ messages[-1].role }}{% endfor %}", 0),
    "remembers": (
        "{% set ns = namespace(n=0, first=true) %}{% for m in messages %}{% if m.role == 'user' %}"
        "{% set ns.n = ns.n + 1 %}{% set ns.first = false %}{% endif %}"
        "{{ ns.n }}{{ ns.first }}{{ m.content }}{% endfor %}{{ ns.n }}",
        8,
    ),
    "thinks since the last question": (
        "{% set ns = namespace(asked=messages|length - 1, looking=true) %}{% for m in messages[::-1] %}"
        "{% if ns.looking and m.role == 'user' %}{% set ns.looking = false %}"
        "{% set ns.asked = messages|length - 1 - loop.index0 %}{% endif %}{% endfor %}"
        "{% for m in messages %}{% if loop.index0 > ns.asked %}{{ m.content }}{% else %}"
        "{{ m.content.split('.')[-1] }}{% endif %}|{% endfor %}",
        0,
    ),
    "calls macros": (
        "{% macro show(m, mark) %}{{ mark }}{{ m.content }}{{ tools | tojson }}{% endmacro %}"
        "{% macro both(m) %}{{ show(m, '<') }}{{ show(m, '>') }}{% endmacro %}"
        "{% for m in messages %}{{ both(m) }}{% endfor %}",
        8,
    ),
    "reads ahead": (
        "{% for m in messages %}{{ m.content }}{% for n in messages %}{% if n.role == 'user' %}{{ n.content }}"
        "{% break %}{% endif %}{% endfor %}{% endfor %}",
        0,
    ),
    "rises": ("{% for m in messages %}{% if loop.changed(m.role) %}#{% endif %}{{ m.content }}{% endfor %}", 0),
    "one of two": (
        "{% macro a() %}1{% endmacro %}{% if tools %}{% for m in messages %}T{{ m.content }}{{ a() }}{% endfor %}"
        "{% else %}{% for m in messages %}N{{ m.content }}{{ a() }}{% endfor %}{% endif %}",
        8,
    ),
    "refuses": (
        "{% for m in messages %}{% if m.role == 'user' and loop.previtem is defined and loop.previtem.role == 'user' %}"
        "{{ raise_exception('two questions') }}{% endif %}{{ m.content }}{% endfor %}",
        8,
    ),
    "stops": ("{% for m in messages %}{% if m.content == 'ab' %}{% break %}{% endif %}{{ m.content }}{% endfor %}.", 0),
    "adds up": ("{% for m in messages + messages %}{{ m.content }}{% endfor %}", 0),
}
ROLES = ("user", "assistant", "tool", "system")
CONTENTS = ("a", "ab", "b.c", "", "1", " x ")
CALLS: tuple[Any, ...] = (None, [{"n": 1}], [{"n": True}], [{"n": 1.0}], [{"a": 0, "b": 0}], [{"b": 0, "a": 0}])


def environment() -> ImmutableSandboxedEnvironment:
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols])

    def refuse(message: str) -> None:
        raise TemplateError(message)

    made.globals["raise_exception"] = refuse
    return made


class Twice:
    """A conversation rendered as a whole and resumed."""

    def __init__(self, source: str) -> None:
        self.template: Template = environment().from_string(source)
        self.resumable = Resumable(self.template, source)
        self.resumed = 0

    def check(self, messages: list[Any], last: Rendering | None, variables: dict[str, Any]) -> Rendering | None:
        """Both texts are the same, or both are errors, or the template is left to be rendered as a whole."""
        try:
            whole = self.template.render(messages=messages, **variables)
        except TemplateError:
            whole = None
        try:
            text, left = self.resumable.render(messages, last, variables)
        except (TypeError, TemplateError):
            return None
        assert text == whole
        self.resumed += left.resumed if left is not None else 0
        return left


def play(source: str, seed: int, turns: int) -> Twice:
    """A random conversation, with branches, edits of the past and other tools now and then."""
    draw = random.Random(seed)
    twice = Twice(source)
    pasts: list[tuple[list[Any], Rendering | None]] = [([message(draw)], None)]
    variables: dict[str, Any] = {"tools": None, "add_generation_prompt": True}
    for _ in range(turns):
        messages, last = draw.choice(pasts[-3:])
        messages = [dict(each) for each in messages] + [message(draw) for _ in range(draw.randrange(3))]
        if draw.random() < 0.3:
            messages[draw.randrange(len(messages))] = message(draw)
        if draw.random() < 0.1:
            del messages[draw.randrange(len(messages)) :]
            messages.append(message(draw))
        if draw.random() < 0.1:
            variables = {**variables, "tools": draw.choice([None, [{"t": 1}], [{"t": True}]])}
        pasts.append((messages, twice.check(messages, last, variables)))
    return twice


def message(draw: random.Random) -> dict[str, Any]:
    return {"role": draw.choice(ROLES), "content": draw.choice(CONTENTS), "calls": draw.choice(CALLS)}


@pytest.mark.parametrize("name", TEMPLATES)
@settings(max_examples=30)
@given(seed=st.integers(0, 2**32))
def test_a_resumed_text_is_the_whole_text(name: str, seed: int) -> None:
    play(TEMPLATES[name][0], seed, 12)


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_did_not_change_is_not_rendered_again(name: str) -> None:
    source, rounds = TEMPLATES[name]
    messages = [{"role": ROLES[number % 2 + number // 4], "content": f"{number}", "calls": None} for number in range(9)]
    twice = Twice(source)
    left = twice.check(messages[:8], None, {"tools": None, "add_generation_prompt": True})
    left = twice.check(messages, left, {"tools": None, "add_generation_prompt": True})
    assert twice.resumed >= rounds


BREAKS: dict[str, tuple[str, Any]] = {
    "what was looked at ahead": ("look", lambda self, number: None),
    "what the loop saw": ("_trusted", lambda self: next(self._fitting(self._last), None) if self._last else None),
    "namespaces": ("_resume", lambda self, last, trusted: self.write(last.written[: trusted.size])),
}


@pytest.mark.parametrize("name", BREAKS)
def test_the_property_catches_a_rendering_that_ignores(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turn_template._Run, *BREAKS[name])
    with pytest.raises(AssertionError):
        play_all()


def play_all() -> None:
    for seed in range(50):
        for source, _ in TEMPLATES.values():
            play(source, seed, 12)


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[0].content }}",
        "{% for m in messages %}{{ strftime_now('%S') }}{% endfor %}",
        "{% for m in messages %}{{ m.content | random }}{% endfor %}",
        "{% macro now() %}{{ lipsum() }}{% endmacro %}{% for m in messages %}{{ now() }}{% endfor %}",
        "{% include 'other' %}{% for m in messages %}{% endfor %}",
    ],
)
def test_a_template_that_may_differ_the_next_time_is_not_resumed(source: str) -> None:
    with pytest.raises(ValueError, match=r"^it"):
        Resumable(environment().from_string(source), source)


def test_values_that_are_equal_but_written_differently_are_not_the_same() -> None:
    unlike: list[Any] = [1, True, 1.0, "1", None, 0.0, -0.0, [1], (1,), {"a": 1, "b": 2}, {"b": 2, "a": 1}, {1: 1}]
    for place, one in enumerate(unlike):
        assert [same(one, other) for other in unlike] == [other is one for other in unlike], place
    assert same({"a": [1, {"b": 0.5}]}, {"a": [1, {"b": 0.5}]})
