"""What one session has seen so far, as far as predictions reach: values by where they stood, calls, last texts."""

import json
import re
from collections.abc import Iterable, Mapping
from copy import copy
from itertools import islice
from typing import Any

from sglang_paste.predict import extract, template

MAX_RECENT = 96
MAX_HISTORY = 32
MAX_REMEMBERED_CHARS = 8192
MAX_TABLES = 16
MAX_NOTED = 20_000
Key = tuple[str, str]
"""Where values stood: a source and a kind."""
Wanted = Mapping[str, frozenset[str]]
"""The kinds wanted of each source; those of `*` and `last` are wanted of every result."""

TASK, USER, SAID, ANY, LAST = "task", "user", "said", "*", "last"
_FAIL = re.compile(
    r"(?i)\b(?:error|exception|traceback|failed|failure|not found|no such file|invalid|cannot|could not|denied"
    r"|exit code [1-9])"
)
_EMPTY = re.compile(r"(?i)^\s*(?:\[\]|\{\}|null|none|no (?:matches|results|files)[^\n]*)?\s*$")
_YEAR = re.compile(r"\b20\d\d\b")
_PARTS = re.compile(r"[A-Z]?[a-z]{2,}|[A-Z]{3,}")
_NOTHING: frozenset[str] = frozenset()


class Called:
    """A call that was made: its tool, its arguments as texts, and how it came out (open, ok, empty or fail)."""

    __slots__ = ("outcome", "texts", "tool")

    def __init__(self, tool: str, texts: dict[str, str]) -> None:
        self.tool = tool
        self.texts = texts
        self.outcome = "open"


class State:
    """Takes in a session's messages in order; `turn` counts them. Only what is `wanted` is read (all, where None)."""

    def __init__(self, wanted: Wanted | None = None) -> None:
        self.turn = 0
        self.role = ""
        self.calls: list[Called] = []
        self.tools: dict[str, None] = {}
        self.texts: dict[str, str] = {}
        self.since: dict[str, int] = {}
        self.seen: dict[str, int] = {}
        self.used: dict[Key, dict[str, list[int]]] = {}
        self.records: dict[str, set[str]] = {}
        self.tables: dict[str, dict[str, list[dict[str, Any]]]] = {}
        self._lists: dict[Key, list[str]] = {}
        self._kinds: dict[str, list[Key]] = {}
        self._recent: dict[str, dict[str, None]] = {}
        self.read: dict[str, tuple[str, list[str]]] = {}
        self._words: dict[str, tuple[str, frozenset[str]]] = {}
        self._year = "2024"
        self._wanted = wanted

    def fork(self) -> "State":
        """A copy that goes its own way."""
        other = State(self._wanted)
        for name, value in vars(self).items():
            setattr(other, name, value if name == "_wanted" else _copied(value))
        return other

    def system(self, text: str) -> None:
        """The operator's instructions; only the year is read from them."""
        self._step("system")
        years = _YEAR.findall(text[:4000])
        if years:
            self._year = years[0]

    def user(self, text: str) -> None:
        """What the person said; the first one is the task."""
        self._step(USER)
        for source in (USER,) if TASK in self.texts else (TASK, USER):
            self.texts[source] = text
            self._take(source, extract.prose(text, self._year, self._kinds_of(source)))

    def said(self, text: str) -> None:
        """What the model said, in the message of its calls or alone."""
        self._step(SAID)
        if text:
            self.texts[SAID] = text
            self._take(SAID, extract.prose(text, self._year, self._kinds_of(SAID)))

    def call(self, tool: str, arguments: Mapping[str, Any]) -> None:
        """A call the model made."""
        texts = {name: text_of(value) for name, value in arguments.items()}
        self.calls.append(Called(tool, texts))
        self.tools[tool] = None
        for name, text in texts.items():
            self.used.setdefault((tool, name), {}).setdefault(text, []).append(len(self.calls))
            value = arguments[name]
            if " " in text and isinstance(value, str):
                self._fillings(tool, name, text)
            items = [text] if not isinstance(value, list) else [*map(text_of, value[:8]), text]
            for item in items:
                if len(item) <= MAX_REMEMBERED_CHARS:
                    self._remember((f"@{tool}", name), item)
                    self._remember(("@", name), item)
                    self._remember(("@", "*"), item)

    def result(self, tool: str, text: str, error: bool | None = None) -> None:
        """What a tool gave back."""
        self._step("tool")
        for called in self.calls[-8:]:
            if called.tool == tool and called.outcome == "open":
                called.outcome = outcome(text, error)
                break
        self.texts[LAST] = text
        document = extract.parsed(text)
        if document is not None:
            self._take_document(tool, document)
            return
        ours, last, everywhere = (self._kinds_of(source) for source in (tool, LAST, ANY))
        wanted = None if ours is None or last is None or everywhere is None else ours | last | everywhere
        found = list(extract.result(text, wanted)) if wanted is None or wanted else []
        self._take(tool, found)
        self._take(LAST, found)
        self._spread(found)

    def values(self, key: Key) -> list[str]:
        """The values that stand there, in their order; of a history the latest first."""
        found = self._lists.get(key)
        if found is None and key[0] == ANY:
            found = self._lists[key] = list(reversed(self._recent.get(key[1], ())))
        return found or []

    def places(self, value: str) -> list[Key]:
        """Where a value stands now. Slow: for mining."""
        found = [key for key, values in self._lists.items() if key[0] != ANY and value in values]
        found.extend((ANY, kind) for kind, recent in self._recent.items() if value in recent)
        return found

    def stem(self) -> str:
        """The latest argument that is a path or a dotted name, or nothing."""
        for value in self.values(("@", "*"))[:6]:
            if len(value) < 200 and " " not in value and ("/" in value or "." in value) and value[:1] not in "[{":
                return value
        return ""

    def _fillings(self, tool: str, name: str, text: str) -> None:
        pattern, places = template.split(text)
        for hole, place in zip(template.holes(pattern), places, strict=True):
            key = (tool, f"{name}<{hole}>")
            self.used.setdefault(key, {}).setdefault(place, []).append(len(self.calls))
            self._remember((f"@{tool}", key[1]), place)
            self._remember((f"@{tool}", f"{name}<"), place)
            self._remember(("@", "*"), place)

    def words(self, source: str) -> frozenset[str]:
        """The parts of the words of a text: of the task as it begins, of what was said as it ends."""
        text = self.texts.get(source, "")
        known = self._words.get(source)
        if known is None or known[0] is not text:
            piece = text[:2500] if source == TASK else text[-1000:]
            known = self._words[source] = (text, frozenset([word.lower() for word in _PARTS.findall(piece)]))
        return known[1]

    def _step(self, role: str) -> None:
        self.turn += 1
        self.role = role

    def _kinds_of(self, source: str) -> frozenset[str] | None:
        return None if self._wanted is None else self._wanted.get(source, _NOTHING)

    def _take_document(self, tool: str, document: Any) -> None:
        found = []
        if len(self.records) > MAX_NOTED:
            self.records.clear()
        self.tables[tool] = dict(islice(extract.tables(document), MAX_TABLES))
        for path, text, holder in extract.leaves(document):
            found.append((path, text))
            self.records.setdefault(text, set()).add(f"{self.turn} {holder}")
        self._take(tool, found)
        self._take(LAST, ())
        if self._wanted is None or any(kind[:1] not in ".[" for kind in self._wanted.get(ANY, ())):
            self._spread(list(extract.tokens(" ".join(text for _, text in found)[:2000])))

    def _spread(self, found: list[extract.Found]) -> None:
        """Put the values of a result at the head of those of all results."""
        wanted = self._kinds_of(ANY)
        for kind, value in reversed(found):
            if wanted is None or kind in wanted:
                recent = self._recent.setdefault(kind, {})
                recent.pop(value, None)
                recent[value] = None
                if len(recent) > MAX_RECENT:
                    del recent[next(iter(recent))]
                self._lists.pop((ANY, kind), None)

    def _take(self, source: str, found: Iterable[extract.Found]) -> None:
        """The values of a message replace those of the one before it from the same source."""
        for key in self._kinds.pop(source, ()):
            self._lists.pop(key, None)
        self.since[source] = self.turn
        kinds: dict[str, dict[str, None]] = {}
        for kind, value in found:
            values = kinds.get(kind)
            if values is None:
                values = kinds[kind] = {}
            if len(values) < extract.MAX_PER_KIND:
                values[value] = None
        new: dict[str, None] = {}
        for kind, values in kinds.items():
            key = (source, kind)
            self._lists[key] = list(values)
            self._kinds.setdefault(source, []).append(key)
            new.update(values)
        if source not in (LAST, TASK):
            if len(self.seen) > MAX_NOTED:
                self.seen.clear()
            for value in new:
                self.seen[value] = self.seen.get(value, 0) + 1

    def _remember(self, key: Key, value: str) -> None:
        values = self._lists.setdefault(key, [])
        if value in values:
            values.remove(value)
        values.insert(0, value)
        del values[MAX_HISTORY:]


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [copy(item) if isinstance(item, Called) else item for item in value]
    return set(value) if isinstance(value, set) else value


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
