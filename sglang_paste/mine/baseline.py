"""What any predictor must beat: the most frequent call, and tool bigrams with arguments copied word for word."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Generic, TypeVar

import msgspec

from sglang_paste.calls import Arguments, canonical
from sglang_paste.errors import BadArguments
from sglang_paste.mine.records import Session

MAX_CALLS = 100_000
OFFERED = 20
MAX_VALUES = 2_000
MAX_LEAVES = 400
MAX_LEAF_CHARS = 2_000
MAX_USER_CHARS = 20_000
START = ""

_IDENTIFIER = re.compile(r"[\w/@#.-]*(?:\d|[_/@])[\w/@#.-]*")
_STOPS = ".,;:!?()[]{}<>\"'`*"

Value = str
"""A JSON value as its canonical text: 1, 1.0 and true are three values."""
Sources = dict[str, Value]


class Guess(msgspec.Struct, frozen=True):
    """A call a baseline expects next, with its share among the training's calls."""

    tool: str
    arguments: Arguments
    probability: float


class Frequent:
    """The most frequent calls of the training, whatever happened in the session."""

    def __init__(self) -> None:
        self._calls: Counter[tuple[str, Value]] = Counter()
        self._best: dict[tuple[tuple[str, ...] | None, tuple[str, ...]], list[Guess]] = {}

    def add(self, session: Session) -> None:
        """Count a session's calls."""
        for turn in session.turns:
            for call in turn.tool_calls:
                text = _text(call.arguments)
                if text is not None and (len(self._calls) < MAX_CALLS or (call.name, text) in self._calls):
                    self._calls[call.name, text] += 1

    def finish(self) -> None:
        """Rank what was counted."""
        self._total = max(self._calls.total(), 1)
        self._ranked = sorted(self._calls.items(), key=lambda item: (-item[1], item[0]))

    def session(self, tools: Sequence[str] | None = None, *, inert: Sequence[str] = ()) -> "_AlwaysTheSame":
        """A session to predict that may call `tools`. `inert` arguments (NAME or TOOL.NAME) are left out."""
        return _AlwaysTheSame(self, tools, inert)

    def tools(self) -> dict[str, float]:
        """All known tools with their shares."""
        counts = Counter[str]()
        for (name, _), count in self._ranked:
            counts[name] += count
        return {name: count / self._total for name, count in counts.items()}

    def best(self, tools: Sequence[str] | None, inert: Sequence[str]) -> list[Guess]:
        """The `OFFERED` most frequent calls, of these tools where some are named."""
        asked = None if tools is None else tuple(tools), tuple(inert)
        if asked not in self._best:
            counted = [(name, text, count) for (name, text), count in self._ranked if tools is None or name in tools]
            total = max(sum(count for _, _, count in counted), 1)
            guesses = (Guess(name, json.loads(text), count / total) for name, text, count in counted)
            self._best[asked] = _merged(guesses, inert)[:OFFERED]
        return self._best[asked]


class _AlwaysTheSame:
    def __init__(self, learned: Frequent, tools: Sequence[str] | None, inert: Sequence[str]) -> None:
        self._learned = learned
        self._tools = tools
        self._inert = inert

    def observe(self, message: Mapping[str, Any]) -> None:
        pass

    def observe_partial(self, text: str) -> None: ...

    def candidates(self, k: int, tool: str | None = None) -> list[Guess]:
        return self._learned.best(self._tools if tool is None else [tool], self._inert)[:k]

    def tools(self) -> dict[str, float]:
        return _among(self._tools, self._learned.tools())


class Copying:
    """The tool by the one before it; each of its arguments from where it was copied most often in training.

    An argument can come from the same argument of an earlier call, from the latest result (by the same key, or its
    first text, or its last), from what the user said last (its last word with a mark or a digit in it), or be the
    commonest value. The sets of arguments are those seen in training.
    """

    def __init__(self) -> None:
        self._follows: dict[str, Counter[str]] = {}
        self._sets: dict[str, Counter[tuple[str, ...]]] = {}
        self._copied: dict[tuple[str, str], Counter[str]] = {}
        self._values: dict[tuple[str, str], Counter[Value]] = {}
        self._common: dict[tuple[str, str], Value] = {}

    def add(self, session: Session) -> None:
        """Learn from a session, call by call."""
        seen = _Seen()
        for turn in session.turns:
            for call in turn.tool_calls:
                self._learn(call.name, call.arguments, seen)
                seen.call(call.name, call.arguments)
            if turn.role == "user":
                seen.user(turn.content)
            for result in turn.tool_results:
                seen.result(result.content)

    def finish(self) -> None:
        """Fix each argument's commonest value. Constants compete with copies by how often they were right."""
        for place, values in self._values.items():
            for value, count in _ranked(values)[:1]:
                self._common[place] = value
                self._copied[place]["constant"] = count

    def session(self, tools: Sequence[str] | None = None, *, inert: Sequence[str] = ()) -> "_CopyingSession":
        """A session to predict that may call `tools`. `inert` arguments (NAME or TOOL.NAME) are left out."""
        return _CopyingSession(self, tools, inert)

    def tools(self, last: str) -> dict[str, float]:
        """The tools that followed `last`, with their shares."""
        follows = self._follows.get(last) or self._follows.get(START, Counter())
        total = max(follows.total(), 1)
        return {name: count / total for name, count in follows.items()}

    def calls(self, tool: str, seen: "_Seen") -> Iterator[Guess]:
        """Calls of the tool, the best copy first; then the one argument that is least sure from its next source."""
        sets = self._sets.get(tool)
        if not sets:
            return
        names = _ranked(sets)[0][0]
        options = {name: self._options(tool, name, seen) for name in names}
        if not all(options.values()):
            return
        best = {name: found[0] for name, found in options.items()}
        yield _guess(tool, best)
        for name in sorted(names, key=lambda name: (best[name][1], name)):
            for other in options[name][1:]:
                yield _guess(tool, {**best, name: other})

    def _learn(self, tool: str, arguments: Arguments, seen: "_Seen") -> None:
        self._follows.setdefault(seen.last, Counter())[tool] += 1
        self._sets.setdefault(tool, Counter())[tuple(sorted(arguments))] += 1
        for name, value in arguments.items():
            text, place = _text(value), (tool, name)
            copied = self._copied.setdefault(place, Counter())
            copied["tries"] += 1
            for source, copy in seen.sources(tool, name).items():
                copied[source] += copy == text
            values = self._values.setdefault(place, Counter())
            if text is not None and (len(values) < MAX_VALUES or text in values):
                values[text] += 1

    def _options(self, tool: str, name: str, seen: "_Seen") -> list[tuple[Value, float]]:
        """Different values for an argument with the share of training in which their source was right, best first."""
        place = (tool, name)
        copied = self._copied[place]
        sources = {**seen.sources(tool, name), "constant": self._common.get(place, "null")}
        found: dict[Value, float] = {}
        for source in sorted(sources, key=lambda source: (-copied[source], source)):
            found.setdefault(sources[source], copied[source] / copied["tries"])
        return list(found.items())


B = TypeVar("B", Frequent, Copying)


class BySource(Generic[B]):
    """A baseline for each source, told which one it is in, and one of all for sources that were not trained on."""

    def __init__(self, kind: Callable[[], B]) -> None:
        self._kind: Callable[[], B] = kind
        self._all: B = kind()
        self._own: dict[str, B] = {}

    def add(self, session: Session) -> None:
        """Learn from a session."""
        self._all.add(session)
        self._own.setdefault(session.source, self._kind()).add(session)

    def finish(self) -> None:
        """Rank what was learned."""
        self._all.finish()
        for baseline in self._own.values():
            baseline.finish()

    def of(self, session: Session) -> B:
        """The baseline for a session."""
        return self._own.get(session.source, self._all)


class _CopyingSession:
    def __init__(self, learned: Copying, tools: Sequence[str] | None, inert: Sequence[str]) -> None:
        self._learned = learned
        self._tools = tools
        self._inert = inert
        self._seen = _Seen()

    def observe(self, message: Mapping[str, Any]) -> None:
        for call in message.get("tool_calls") or ():
            self._seen.call(call["function"]["name"], json.loads(call["function"]["arguments"]))
        if message["role"] == "user":
            self._seen.user(message["content"])
        elif message["role"] == "tool":
            self._seen.result(message["content"])

    def observe_partial(self, text: str) -> None: ...

    def candidates(self, k: int, tool: str | None = None) -> list[Guess]:
        tools = self.tools() if tool is None else {tool: 1.0}
        found = [
            Guess(guess.tool, guess.arguments, share * guess.probability)
            for name, share in tools.items()
            for guess in islice(self._learned.calls(name, self._seen), k)
        ]
        return _merged(found, self._inert)[:k]

    def tools(self) -> dict[str, float]:
        return _among(self._tools, self._learned.tools(self._seen.last))


class _Seen:
    """What a session has shown so far, as far as this baseline looks."""

    def __init__(self) -> None:
        self.last = START
        self._same: dict[tuple[str, str], Value] = {}
        self._any: dict[str, Value] = {}
        self._keys: dict[str, Value] = {}
        self._ends: Sources = {}
        self._named: Value | None = None

    def call(self, tool: str, arguments: Arguments) -> None:
        self.last = tool
        for name, value in arguments.items():
            if (text := _text(value)) is not None:
                self._same[tool, name] = self._any[name] = text

    def user(self, text: str) -> None:
        words = [word.strip(_STOPS) for word in text[-MAX_USER_CHARS:].split()]
        named = [word for word in words if _IDENTIFIER.search(word)]
        self._named = _text(named[-1]) if named else None

    def result(self, content: str) -> None:
        leaves = list(islice(_leaves(content), MAX_LEAVES))
        for key, value in reversed(leaves):
            self._keys[key] = value
        self._ends = {"first": leaves[0][1], "last": leaves[-1][1]} if leaves else {}

    def sources(self, tool: str, name: str) -> Sources:
        found = {
            "same": self._same.get((tool, name)),
            "any": self._any.get(name),
            "key": self._keys.get(name),
            "user": self._named,
            **self._ends,
        }
        return {source: value for source, value in found.items() if value is not None}


def _leaves(content: str) -> Iterator[tuple[str, Value]]:
    """The scalars of a JSON result, each with the key it stands under; else the lines of a text."""
    if content.lstrip()[:1] in ("{", "["):
        try:
            yield from _scalars("", msgspec.json.decode(content))
            return
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            pass
    for line in content.splitlines():
        if line.strip() and (text := _text(line.strip()[:MAX_LEAF_CHARS])) is not None:
            yield "", text


def _scalars(key: str, value: Any) -> Iterator[tuple[str, Value]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _scalars(name, item)
    elif isinstance(value, list):
        for item in value:
            yield from _scalars(key, item)
    elif (text := _text(value)) is not None and len(text) <= MAX_LEAF_CHARS:
        yield key, text


def _text(value: Any) -> Value | None:
    try:
        return canonical({"": value})[4:-1]
    except BadArguments:
        return None


def _ranked(counts: Counter[Any]) -> list[tuple[Any, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _among(tools: Sequence[str] | None, shares: dict[str, float]) -> dict[str, float]:
    return shares if tools is None else {tool: share for tool, share in shares.items() if tool in tools}


def _merged(guesses: Iterable[Guess], inert: Sequence[str]) -> list[Guess]:
    """Best first; those that differ in inert arguments alone are one."""
    found: dict[tuple[str, Value], float] = {}
    for guess in guesses:
        vital = {k: v for k, v in guess.arguments.items() if k not in inert and f"{guess.tool}.{k}" not in inert}
        key = guess.tool, canonical(vital)
        found[key] = found.get(key, 0.0) + guess.probability
    ranked = sorted(found.items(), key=lambda item: -item[1])
    return [Guess(tool, json.loads(text), share) for (tool, text), share in ranked]


def _guess(tool: str, chosen: Mapping[str, tuple[Value, float]]) -> Guess:
    share = 1.0
    for _, right in chosen.values():
        share *= right
    return Guess(tool, {name: json.loads(value) for name, (value, _) in chosen.items()}, share)
