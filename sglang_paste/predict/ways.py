"""The ways an argument's value is made from what a session has seen: lists of values, each by one rule."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from sglang_paste.predict.state import Key, State, text_of

MAX_HEAD = 10
MAX_TAIL = 4


class Way(msgspec.Struct, frozen=True, array_like=True):
    """One rule: the values of a source and kind, put in a form.

    Forms: `s` a string, `j` the JSON value the text stands for, `l` a list with the string alone, `a` the list of
    tasks an earlier call gave, one step on, `n` a number's successors.
    """

    source: str
    kind: str
    form: str

    @property
    def key(self) -> Key:
        """Where in the state its values stand."""
        return (self.source, self.kind)


def form_of(value: Any) -> str:
    """The form whose text is `text_of` the value."""
    return "s" if isinstance(value, str) else "j"


def build(text: str, form: str) -> Any:
    """The argument's value. Raises ValueError where the text is not JSON and the form says so."""
    if form == "s":
        return text
    if form == "l":
        return [text]
    return json.loads(text)


def explain(state: State, value: Any) -> Iterator[Way]:
    """All ways that make exactly this value here."""
    text, form = text_of(value), form_of(value)
    for source, kind in state.places(text):
        yield Way(source, kind, form)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        for source, kind in state.places(value[0]):
            yield Way(source, kind, "l")


def forward(text: str) -> Iterator[str]:
    """A list of items with a `status`, one step on: what is in progress is completed, the next one begins."""
    try:
        items = json.loads(text)
    except ValueError:
        return
    if not isinstance(items, list) or not all(isinstance(item, dict) and "status" in item for item in items):
        return
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
    for changed in variants:
        yield text_of([{**item, "status": changed.get(index, item["status"])} for index, item in enumerate(items)])
