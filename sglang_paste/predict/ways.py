"""The ways an argument's value is made from what a session has seen: lists of values, each by one rule."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from sglang_paste.predict import template
from sglang_paste.predict.state import State, text_of

PLAIN, JOINED = frozenset("sjlt"), frozenset("12")
"""Forms of which the values are those that stand there, and those that are these joined to a stem."""


class Way(msgspec.Struct, frozen=True, array_like=True, order=True):
    """One rule: the values of a source and kind, put in a form.

    Forms: `s` a string; `t` a template; `j` the JSON value the text stands for; `l` a list with the string alone; `1`
    and `2` a string joined to the latest path or dotted name, or to what that one is in; `a` the list of tasks an
    earlier call gave, one step on; `+` the line window after an earlier one; `p` some columns of a list of objects,
    whole or row by row.
    """

    source: str
    kind: str
    form: str


def form_of(value: Any) -> str:
    """The form whose text is `text_of` the value."""
    return "s" if isinstance(value, str) else "j"


def build(text: str, form: str) -> Any:
    """The argument's value. Raises ValueError or DecodeError where the text is not JSON and the form says so."""
    if form == "s":
        return text
    if form == "l":
        return [text]
    return msgspec.json.decode(text)


def values(way: Way, state: State) -> list[str]:
    """The texts of a way's values, in order."""
    form = way.form
    if form == "p":
        known = state.projected.get((way.source, way.kind))
        if known is None:
            path, _, columns = way.kind.partition("|")
            known = list(projected(state.tables.get(way.source, {}).get(path, ()), columns))
            state.projected[way.source, way.kind] = known
        return known
    found = state.values(way.source, way.kind)
    if form in PLAIN or not found:
        return found
    if form == "a":
        return list(forward(found[0]))
    if form == "+":
        return list(onward(state, way.kind))
    start = stem(state, form)
    return [start + value for value in found] if start else []


def built_form(form: str) -> str:
    """The form the values are built in, once a way has made their texts."""
    return {"1": "s", "2": "s", "a": "j", "+": "j", "p": "j"}.get(form, form)


def explain(state: State, tool: str, name: str, value: Any) -> Iterator[Way]:
    """All ways that make exactly this value here."""
    text, form = text_of(value), form_of(value)
    for source, kind in state.places(text):
        yield Way(source, kind, form)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        for source, kind in state.places(value[0]):
            yield Way(source, kind, "l")
    if form == "s" and " " in text:
        pattern, places = template.split(text)
        if places:
            for source, kind in state.places(pattern):
                yield Way(source, kind, "t")
    if form == "s":
        for joined in sorted(JOINED):
            start = stem(state, joined)
            if start and text.startswith(start) and len(text) > len(start):
                for source, kind in state.places(text[len(start) :]):
                    yield Way(source, kind, joined)
    if isinstance(value, list) and value:
        yield from _projections(state, value, text)
    for special in (Way(f"@{tool}", name, "a"), Way(f"@{tool}", name, "+")):
        if form == "j" and text in values(special, state):
            yield special


def projected(rows: Sequence[Mapping[str, Any]], columns: str) -> Iterator[str]:
    """These columns of all rows, then of each row alone; `=name` for a column's bare values."""
    names = columns.removeprefix("=").split(",")
    bare = columns.startswith("=")
    cells: list[Any] = []
    for row in rows:
        if all(name in row for name in names):
            cells.append(row[names[0]] if bare else {name: row[name] for name in names})
    if len(cells) > 1:
        yield text_of(cells)
    for cell in cells:
        yield text_of([cell])


def _projections(state: State, value: list[Any], text: str) -> Iterator[Way]:
    first = value[0]
    for tool, tables in state.tables.items():
        for path, rows in tables.items():
            if isinstance(first, dict):
                choices = [",".join(sorted(first))]
            else:
                choices = [f"={name}" for name, cell in rows[0].items() if type(cell) is type(first)]
            for columns in choices:
                if text in projected(rows, columns):
                    yield Way(tool, f"{path}|{columns}", "p")


def stem(state: State, form: str) -> str:
    """What values are joined to: the latest path or dotted name (`1`), or what that one is in (`2`), and the sign."""
    latest = state.stem()
    if not latest:
        return ""
    sign = "/" if "/" in latest else "."
    if form == "2":
        latest = latest.partition("(")[0].rpartition(sign)[0]
    return latest + sign if latest else ""


@lru_cache(64)
def forward(text: str) -> tuple[str, ...]:
    """A list of items with a `status`, one step on: what is in progress is completed, the next one begins."""
    if text[:2] != "[{":
        return ()
    try:
        items = json.loads(text)
    except ValueError:
        return ()
    if not all(isinstance(item, dict) and "status" in item for item in items):
        return ()
    states = [item["status"] for item in items]
    running = [index for index, status in enumerate(states) if status == "in_progress"]
    waiting = [index for index, status in enumerate(states) if status == "pending"]
    variants = []
    if running and waiting:
        variants.append({running[0]: "completed", waiting[0]: "in_progress"})
    if running:
        variants.append(dict.fromkeys(running, "completed"))
    if running or waiting:
        variants.append(dict.fromkeys((*running, *waiting), "completed"))
    if waiting and not running:
        variants.append({waiting[0]: "in_progress"})
    if len(waiting) > 1 and running:
        variants.append({running[0]: "completed", waiting[0]: "completed", waiting[1]: "in_progress"})
    return tuple(
        text_of([{**item, "status": changed.get(index, item["status"])} for index, item in enumerate(items)])
        for changed in variants
    )


def onward(state: State, name: str) -> Iterator[str]:
    """Numbers after the window that the latest call with this argument read: its end, and one more."""
    for call in reversed(state.calls[-6:]):
        texts = call.texts
        if name not in texts:
            continue
        numbers = {key: int(text) for key, text in texts.items() if text.isdigit() and len(text) < 9}
        if name in numbers:
            for other in numbers:
                if other != name:
                    yield str(numbers[name] + numbers[other])
                    yield str(numbers[name] + numbers[other] + 1)
                    yield str(max(numbers[name] - numbers[other], 0))
        return
