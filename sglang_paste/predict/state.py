"""What one session has seen so far, as far as predictions reach: values by where they stood, calls, last texts."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from itertools import chain, islice
from typing import Any

from sglang_paste.predict import extract, template
from sglang_paste.predict.parts import parts_in

MAX_RECENT = 16
MAX_HISTORY = 32
MAX_CALLS = 64
MAX_REMEMBERED_CHARS = 8192
MAX_TABLES = 16
MAX_NOTED = 20_000
MAX_RECORDS = 8
MAX_USED = 4096
MAX_NEWS = 8
MAX_ASKED_CHARS = 4000
Key = tuple[str, str]
"""Where values stood: a source and a kind."""
Wanted = Mapping[str, frozenset[str]]
"""The kinds wanted of each source; those of `*` and `last` are wanted of every result."""

TASK, USER, SAID, NOW, ANY, LAST = "task", "user", "said", "now", "*", "last"
_FAIL = re.compile(
    r"\b(?:error|exception|traceback|failed|failure|not found|no such file|invalid|cannot|could not|denied"
    r"|exit code [1-9])"
)
_EMPTY = re.compile(r"(?i)^\s*(?:\[\]|\{\}|null|none|no (?:matches|results|files)[^\n]*)?\s*$")
_FAILURES = (
    *("error", "exception", "traceback", "fail", "not found", "no such", "invalid", "cannot", "could not", "denied"),
    "exit code",
)
_YEAR = re.compile(r"\b20\d\d\b")
_NOTHING: frozenset[str] = frozenset()
as_json = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode
"""One text for a JSON value."""


class Called:
    """A call that was made: its tool, its arguments as texts, what a command in them does, and how it came out (open,
    ok, empty or fail)."""

    __slots__ = ("outcome", "texts", "tool", "verb")

    def __init__(self, tool: str, texts: dict[str, str], outcome: str = "open") -> None:
        self.tool = tool
        self.texts = texts
        self.outcome = outcome
        command = next((texts[name] for name in sorted(texts) if " " in texts[name]), "")
        self.verb = template.verb(command) if command else ""


class State:
    """Takes in a session's messages in order; `turn` counts them, `count` the calls, of which the latest are kept.

    Only what is `wanted` is read (all, where None). Lists of values are never changed, only replaced.
    """

    def __init__(self, wanted: Wanted | None = None) -> None:
        self.turn = 0
        self.count = 0
        self.role = ""
        self.calls: list[Called] = []
        self.tools: dict[str, None] = {}
        self.texts: dict[str, str] = {}
        self.since: dict[str, int] = {}
        self.seen: Counter[str] = Counter()
        self.used: dict[Key, dict[str, tuple[int, int]]] = {}
        """For each argument the texts it had: how often, and in which call last."""
        self.records: dict[str, tuple[tuple[int, int], ...]] = {}
        """For each value the objects it stood in: their turns and numbers."""
        self.tables: dict[str, dict[str, list[dict[str, Any]]]] = {}
        self.projected: dict[Key, list[str]] = {}
        """Values made of the tables, as long as these stand."""
        self._lists: dict[str, extract.Found] = {}
        self._recent: dict[str, list[str]] = {}
        self._news: dict[str, list[list[str]]] = {}
        self._words: dict[str, tuple[str, frozenset[str]]] = {}
        self._asked: dict[str, int] = {}
        self._year = "2024"
        self.wanted = wanted

    def fork(self) -> "State":
        """A copy that goes its own way."""
        other = State(self.wanted)
        for name, value in vars(self).items():
            setattr(other, name, value.copy() if isinstance(value, (dict, list)) and name != "wanted" else value)
        other.calls = [Called(call.tool, call.texts, call.outcome) for call in self.calls]
        other.used = {key: texts.copy() for key, texts in self.used.items()}
        other._lists = {source: lists.copy() for source, lists in self._lists.items()}
        other._news = {kind: news.copy() for kind, news in self._news.items()}
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
        self._asked.clear()
        sources = (USER,) if TASK in self.texts else (TASK, USER)
        found = extract.prose(text, self._year, self._kinds_of(*sources))
        for source in sources:
            self.texts[source] = text
            self._take(source, found)
        self._count(found)

    def said(self, text: str) -> None:
        """What the model said, in the message of its calls or alone."""
        self._step(SAID)
        if text:
            self.texts[SAID] = text
            found = extract.prose(text, self._year, self._kinds_of(SAID))
            self._take(SAID, found)
            self._count(found)

    def saying(self, text: str) -> None:
        """What the model has said so far in the message under way, in place of what it had before; nothing of it stays
        when a message is there."""
        self._hush()
        if text:
            self.texts[NOW] = text
            self._take(NOW, extract.prose(text, self._year, self._kinds_of(NOW)))

    def call(self, tool: str, arguments: Mapping[str, Any]) -> None:
        """A call the model made."""
        texts = {name: text_of(value) for name, value in arguments.items()}
        self.count += 1
        self.calls.append(Called(tool, texts))
        if len(self.calls) > MAX_CALLS:
            del self.calls[: MAX_CALLS // 2]
        self.tools[tool] = None
        for name, text in texts.items():
            value = arguments[name]
            self._use((tool, name), text)
            if " " in text and isinstance(value, str):
                self._fillings(tool, name, text)
            items = [text] if not isinstance(value, list) else [*map(text_of, value[:8]), text]
            for item in items:
                if len(item) <= MAX_REMEMBERED_CHARS:
                    self._remember(f"@{tool}", name, item)
                    self._remember("@", name, item)
                    self._remember("@", "*", item)

    def result(self, tool: str, text: str, error: bool | None = None) -> None:
        """What a tool gave back."""
        self._step("tool")
        for called in self.calls[-8:]:
            if called.tool == tool and called.outcome == "open":
                called.outcome = outcome(text, error)
                break
        self.texts[LAST] = text
        document = self._parsed(text)
        if document is not None:
            self._take_document(tool, document)
            return
        wanted = self._kinds_of(tool, LAST, ANY)
        found = extract.result(text, wanted) if wanted is None or wanted else {}
        self._take(tool, found)
        self._take(LAST, found)
        self._count(found)
        self._spread(found)

    def values(self, source: str, kind: str) -> list[str]:
        """The values that stand there, in their order; of a history the latest first."""
        if source == ANY:
            return self._everywhere(kind)
        lists = self._lists.get(source)
        return lists.get(kind, []) if lists else []

    def places(self, value: str) -> list[Key]:
        """Where a value stands now. Slow: for mining."""
        found = [
            (source, kind) for source, lists in self._lists.items() for kind, values in lists.items() if value in values
        ]
        kinds = dict.fromkeys([*self._recent, *self._news])
        found.extend((ANY, kind) for kind in kinds if value in self._everywhere(kind))
        return found

    def stem(self) -> str:
        """The latest argument that is a path or a dotted name, or nothing."""
        for value in self.values("@", "*")[:6]:
            if len(value) < 200 and " " not in value and ("/" in value or "." in value) and value[:1] not in "[{":
                return value
        return ""

    def words(self, source: str) -> frozenset[str]:
        """The parts of the words of a text: of the task as it begins, of what was said as it ends."""
        text = self.texts.get(source, "")
        known = self._words.get(source)
        if known is None or known[0] is not text:
            piece = text[:2500] if source == TASK else text[-1000:]
            known = self._words[source] = (text, frozenset(parts_in(piece)))
        return known[1]

    def asked(self, text: str, end: str) -> int:
        """Where the person named a text: 16 in the last message, 32 in the task; and 4, its end in the task."""
        found = self._asked.get(text)
        if found is None:
            task, user = self.texts.get(TASK, ""), self.texts.get(USER, "")
            in_task, is_ended = stands(text, end, task[:MAX_ASKED_CHARS])
            in_user = in_task if user is task else text in user[:MAX_ASKED_CHARS]
            found = 16 * in_user + 32 * in_task + 4 * is_ended
            if len(self._asked) >= MAX_USED:
                self._asked.clear()
            self._asked[text] = found
        return found

    def _parsed(self, text: str) -> Any:
        return extract.parsed(text)

    def _fillings(self, tool: str, name: str, text: str) -> None:
        pattern, places = template.split(text)
        if places:
            self._remember(f"@{tool}", template.own(name), pattern)
        for hole, place in zip(template.holes(pattern), places, strict=True):
            key = template.hole_name(name, hole)
            for used in dict.fromkeys((key, template.hole_name(name))):
                self._use((tool, used), place)
            self._remember(f"@{tool}", key, place)
            self._remember(f"@{tool}", f"{name}<", place)
            self._remember("@", "*", place)

    def _hush(self) -> None:
        self.texts.pop(NOW, None)
        self._lists.pop(NOW, None)

    def _step(self, role: str) -> None:
        self._hush()
        self.turn += 1
        self.role = role

    def _kinds_of(self, *sources: str) -> frozenset[str] | None:
        if self.wanted is None:
            return None
        return frozenset().union(*[self.wanted.get(source, _NOTHING) for source in sources])

    def _take_document(self, tool: str, document: Any) -> None:
        if len(self.records) > MAX_NOTED:
            self.records.clear()
        self.projected = {key: made for key, made in self.projected.items() if key[0] != tool}
        self.tables[tool] = dict(islice(extract.tables(document), MAX_TABLES))
        values: extract.Values = {}
        texts, records, turn = [], self.records, self.turn
        for path, text, number in extract.leaves(document):
            texts.append(text)
            some = values.get(path)
            if some is None:
                some = values[path] = {}
            if len(some) < extract.MAX_PER_KIND:
                some[text] = None
            known = records.get(text)
            if known is None:
                records[text] = ((turn, number),)
            elif len(known) < MAX_RECORDS:  # what stands everywhere says nothing
                records[text] = (*known, (turn, number))
        found = {path: list(some) for path, some in values.items()}
        self._take(tool, found)
        self._take(LAST, {})
        self._count(found)
        if self.wanted is None or any(kind[:1] not in ".[" for kind in self.wanted.get(ANY, ())):
            self._spread(extract.tokens(" ".join(texts)[:2000]))

    def _take(self, source: str, found: extract.Found) -> None:
        """The values of a message replace those of the one before it from the same source."""
        self.since[source] = self.turn
        self._lists[source] = found

    def _count(self, found: extract.Found) -> None:
        if len(self.seen) > MAX_NOTED:
            self.seen.clear()
        self.seen.update(set().union(*found.values()))

    def _spread(self, found: extract.Found) -> None:
        """Put the values of a result at the head of those of all results."""
        wanted = self._kinds_of(ANY)
        for kind, values in found.items():
            if values and (wanted is None or kind in wanted):
                news = self._news.setdefault(kind, [])
                news.append(values[:MAX_RECENT])
                if len(news) > MAX_NEWS:
                    self._everywhere(kind)

    def _everywhere(self, kind: str) -> list[str]:
        known = self._recent.get(kind, [])
        news = self._news.pop(kind, None)
        if news:
            latest: dict[str, None] = {}
            for values in chain(reversed(news), (known,)):
                latest.update(dict.fromkeys(values))
                if len(latest) >= MAX_RECENT:
                    break
            known = self._recent[kind] = list(islice(latest, MAX_RECENT))
        return known

    def _use(self, key: Key, text: str) -> None:
        texts, text = self.used.setdefault(key, {}), text[:MAX_REMEMBERED_CHARS]
        texts[text] = (texts.pop(text, (0, 0))[0] + 1, self.count)
        if len(texts) > MAX_USED:
            del texts[next(iter(texts))]

    def _remember(self, source: str, kind: str, value: str) -> None:
        lists = self._lists.setdefault(source, {})
        known = lists.get(kind, [])
        if value in known:
            known = known.copy()
            known.remove(value)
        lists[kind] = [value, *known[: MAX_HISTORY - 1]]


class Outline(State):
    """What the context of a call is made of: the calls, and the last texts; no values."""

    def __init__(self) -> None:
        super().__init__({})

    def _parsed(self, text: str) -> None:
        return None

    def _fillings(self, tool: str, name: str, text: str) -> None: ...

    def _count(self, found: extract.Found) -> None: ...

    def _use(self, key: Key, text: str) -> None: ...

    def _remember(self, source: str, kind: str, value: str) -> None: ...


def stands(text: str, end: str, where: str) -> tuple[bool, bool]:
    """Whether a text stands somewhere, and whether its end does, which is a part of it or nothing."""
    if not end:
        return text in where, False
    is_ended = end in where
    return is_ended and (len(end) == len(text) or text in where), is_ended


def outcome(text: str, error: bool | None) -> str:
    """Whether a result is `ok`, `empty` or a `fail`; what the recorder said of it counts more than its words."""
    if error is not None:
        return "fail" if error else "ok" if not _EMPTY.match(text[:200]) else "empty"
    if _EMPTY.match(text[:200]):
        return "empty"
    head = text[:160].lower()
    return "fail" if any(map(head.__contains__, _FAILURES)) and _FAIL.search(head) else "ok"


def text_of(value: Any) -> str:
    """The text of an argument's value: a string as it is, anything else as canonical JSON."""
    if isinstance(value, str):
        return value
    return str(value) if type(value) is int else as_json(value)
