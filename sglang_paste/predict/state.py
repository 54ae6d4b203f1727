"""What one session has seen so far, as far as predictions reach: values by where they stood, calls, last texts."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from sglang_paste.predict import extract

MAX_RECENT = 96
MAX_HISTORY = 32
MAX_VALUES = 20_000
MAX_LISTS = 512
Key = tuple[str, str]
"""Where values stood: a source and a kind."""

TASK, USER, SAID, ANY, LAST = "task", "user", "said", "*", "last"
_FAIL = re.compile(
    r"(?i)\b(?:error|exception|traceback|failed|failure|not found|no such file|invalid|cannot|could not|denied"
    r"|exit code [1-9])"
)
_EMPTY = re.compile(r"(?i)^\s*(?:\[\]|\{\}|null|none|no (?:matches|results|files)[^\n]*)?\s*$")
_YEAR = re.compile(r"\b20\d\d\b")


class Called:
    """A call that was made: its tool, its arguments as texts, and how it came out (ok, empty, fail, or none yet)."""

    __slots__ = ("outcome", "texts", "tool", "turn")

    def __init__(self, tool: str, texts: dict[str, str], turn: int) -> None:
        self.tool = tool
        self.texts = texts
        self.turn = turn
        self.outcome = "open"


class State:
    """Takes in a session's messages in order. `turn` counts them."""

    def __init__(self) -> None:
        self.turn = 0
        self.role = ""
        self.calls: list[Called] = []
        self.texts: dict[str, str] = {}
        self.lists: dict[Key, list[str]] = {}
        self.since: dict[str, int] = {}
        self.where: dict[str, dict[Key, int]] = {}
        self.recent: dict[str, dict[str, int]] = {}
        self.used: dict[Key, dict[str, list[int]]] = {}
        self.last_tools: tuple[str, ...] = ()
        self.year = "2024"
        self._kinds: dict[str, list[Key]] = {}

    def system(self, text: str) -> None:
        """The operator's instructions; only the year is read from them."""
        self.turn += 1
        self.role = "system"
        years = _YEAR.findall(text[:4000])
        if years:
            self.year = years[0]

    def user(self, text: str) -> None:
        """What the person said; the first one is the task."""
        self.turn += 1
        self.role = USER
        found = list(extract.prose(text, self.year))
        if TASK not in self.texts:
            self.texts[TASK] = text
            self._take(TASK, found)
        self.texts[USER] = text
        self._take(USER, found)

    def said(self, text: str) -> None:
        """What the model said (in the message of its calls, or alone)."""
        self.turn += 1
        self.role = SAID
        if text:
            self.texts[SAID] = text
            self._take(SAID, extract.prose(text, self.year))

    def call(self, tool: str, arguments: Mapping[str, Any]) -> None:
        """A call the model made."""
        texts = {name: text_of(value) for name, value in arguments.items()}
        self.calls.append(Called(tool, texts, self.turn))
        for name, text in texts.items():
            used = self.used.setdefault((tool, name), {})
            used.setdefault(text, []).append(len(self.calls))
            value = arguments[name]
            items = [text] if not isinstance(value, list) else [text, *map(text_of, value[:8])]
            for item in items:
                if len(item) <= extract.MAX_VALUE_CHARS * 4:
                    self._remember((f"@{tool}", name), item)
                    self._remember(("@", name), item)
                    self._remember(("@", "*"), item)

    def result(self, tool: str, text: str, error: bool | None = None) -> None:
        """What a tool gave back."""
        self.turn += 1
        self.role = "tool"
        self.last_tools = (tool,)
        for called in self.calls[-8:]:
            if called.tool == tool and called.outcome == "open":
                called.outcome = outcome(text, error)
                break
        self.texts[LAST] = text
        found = list(extract.result(text, self.year))
        self._take(tool, found)
        if len(found) < 400:
            self._take(LAST, ((kind, value) for kind, value in found if not kind.startswith((".", "["))))
        for kind, value in reversed(found):
            if not kind.startswith((".", "[")):
                recent = self.recent.setdefault(kind, {})
                recent.pop(value, None)
                recent[value] = self.turn
                if len(recent) > MAX_RECENT:
                    del recent[next(iter(recent))]

    def values(self, key: Key) -> list[str]:
        """The values that stood there, in their order; of a history the latest first."""
        if key[0] == ANY:
            return list(reversed(self.recent.get(key[1], ())))
        return self.lists.get(key, [])

    def places(self, value: str) -> Iterable[Key]:
        """Where a value stands now."""
        for key, turn in self.where.get(value, {}).items():
            if turn < 0 or self.since.get(key[0]) == turn:
                yield key
        for kind, recent in self.recent.items():
            if value in recent:
                yield (ANY, kind)

    def _take(self, source: str, found: Iterable[extract.Found]) -> None:
        """The values of a message replace those of the one before it from the same source."""
        for key in self._kinds.pop(source, ()):
            del self.lists[key]
        self.since[source] = self.turn
        kinds: dict[str, dict[str, None]] = {}
        for kind, value in found:
            values = kinds.setdefault(kind, {})
            if len(values) < extract.MAX_PER_KIND:
                values[value] = None
        for kind, values in kinds.items():
            key = (source, kind)
            self.lists[key] = list(values)
            self._kinds.setdefault(source, []).append(key)
            for value in values:
                self.where.setdefault(value, {})[key] = self.turn

    def _remember(self, key: Key, value: str) -> None:
        values = self.lists.setdefault(key, [])
        if value in values:
            values.remove(value)
        values.insert(0, value)
        del values[MAX_HISTORY:]
        self.where.setdefault(value, {})[key] = -1


def outcome(text: str, error: bool | None) -> str:
    """Whether a result is `ok`, `empty` or a `fail`; what the recorder said of it counts more than its words."""
    if error is not None:
        return "fail" if error else "ok" if not _EMPTY.match(text[:200]) else "empty"
    if _EMPTY.match(text[:200]):
        return "empty"
    return "fail" if _FAIL.search(text[:160]) else "ok"


def text_of(value: Any) -> str:
    """The text of an argument's value: a string as it is, anything else as canonical JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
