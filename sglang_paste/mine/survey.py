"""The first pass of mining: what there is to learn from, and in how many tasks each thing was seen."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypeVar

import msgspec

from sglang_paste.mine.records import Call, Session
from sglang_paste.mine.replay import moments
from sglang_paste.predict import template
from sglang_paste.predict.contexts import features
from sglang_paste.predict.patterns import Argument
from sglang_paste.predict.secret import holds_secret, is_secret_name
from sglang_paste.predict.state import NOW, Outline, State, text_of
from sglang_paste.predict.ways import Way, build, explain, form_of

MAX_WAYS = 8
MAX_SAYING_WAYS = 4  # besides these, from the message under way
MAX_CONSTANTS = 96
MAX_TOLD = 64  # tasks that are told apart where constants are ranked
MAX_EXPLAINED = 75
MIN_WORD_TASKS = 3
MAX_WORDS = 20_000
MAX_CONSTANT_CHARS = 2000
T = TypeVar("T")
ArgumentKey = tuple[str, str]
ShapeKey = tuple[str, tuple[str, ...]]


class Survey(msgspec.Struct):
    """Counts over sessions. The search for ways, which is slow, ends for an argument that was seen often.

    Surveys of several parts of the sessions can be joined.
    """

    k: int
    together: dict[str, set[str]] = {}
    _shapes: dict[ShapeKey, set[str]] = {}
    _words: dict[str, set[str]] = {}
    _constants: dict[ArgumentKey, dict[tuple[str, str], set[str]]] = {}
    _explained: dict[ArgumentKey, list[frozenset[Way]]] = {}
    _tasks: dict[ArgumentKey, dict[Way, set[str]]] = {}
    _counts: dict[str, int] = {}
    _calls: dict[str, int] = {}

    def add(self, session: Session, task: str) -> None:
        """Count one session."""
        tools = {call.name for turn in session.turns for call in turn.tool_calls}
        for tool in tools:
            self.together.setdefault(tool, set()).update(tools)
        called = [turn.tool_calls[0].name for turn in session.turns if turn.tool_calls]
        thorough = 3 * sum([self._calls.get(tool, 0) < MAX_EXPLAINED for tool in called]) >= len(called)
        said: Counter[str] = Counter()
        for state, calls in moments(session, State() if thorough else Outline(), saying=1.0):
            call = calls[0]
            self._calls[call.name] = self._calls.get(call.name, 0) + 1
            self._note(self._shapes, (call.name, tuple(sorted(call.arguments))), task)
            said.update(features(state))
            for name, value in call.arguments.items():
                self._argument(state if thorough else None, call, name, value, task)
        for word, count in said.items():
            self._counts[word] = self._counts.get(word, 0) + count
            self._note(self._words, word, task)

    def join(self, other: "Survey") -> None:
        """Add what another one counted."""
        for tool, tools in other.together.items():
            self.together.setdefault(tool, set()).update(tools)
        self._join(self._shapes, other._shapes)
        self._join(self._words, other._words)
        for word, count in other._counts.items():
            self._counts[word] = self._counts.get(word, 0) + count
        for key, rows in other._explained.items():
            self._explained.setdefault(key, []).extend(rows)
        for key, constants in other._constants.items():
            self._join(self._constants.setdefault(key, {}), constants, MAX_TOLD)
        for key, ways in other._tasks.items():
            self._join(self._tasks.setdefault(key, {}), ways)

    def shapes(self) -> list[ShapeKey]:
        """The tools by the arguments they were called with, in at least two tasks."""
        return sorted(shape for shape, tasks in self._shapes.items() if len(tasks) >= min(2, self.k))

    def words(self) -> list[str]:
        """The features seen in enough tasks, the most frequent ones where they are too many."""
        least = max(self.k, MIN_WORD_TASKS)
        enough = sorted((-self._counts[word], word) for word, tasks in self._words.items() if len(tasks) >= least)
        return sorted(word for _, word in enough[:MAX_WORDS])

    def arguments(self, shapes: Sequence[ShapeKey]) -> dict[ArgumentKey, Argument]:
        """The arguments of these shapes, and what fills the holes in their templates, without weights."""
        found: dict[ArgumentKey, Argument] = {}
        for key in sorted({(tool, name) for tool, names in shapes for name in names}):
            found[key] = argument = Argument(*key, self._ways(key), self._kept(key))
            templates = [text for text, form in argument.constants if form == "t"]
            names = {template.hole_name(key[1], hole) for text in templates for hole in template.holes(text)}
            if any(way.form == "t" for way in argument.ways):
                names.add(template.hole_name(key[1]))
            for name in sorted(names):
                hole_key = (key[0], name)
                found[hole_key] = Argument(*hole_key, self._ways(hole_key), self._kept(hole_key))
        return found

    def _argument(self, state: State | None, call: Call, name: str, value: object, task: str) -> None:
        key, text = (call.name, name), text_of(value)
        self._explain([key], state, value, task)
        if len(text) > MAX_CONSTANT_CHARS:
            return
        constants = self._constants.setdefault(key, {})
        self._note(constants, (text, form_of(value)), task, MAX_TOLD)
        pattern, places = template.split(text) if isinstance(value, str) and " " in text else (text, [])
        if not places:
            return
        self._note(constants, (pattern, "t"), task, MAX_TOLD)
        for hole, place in zip(template.holes(pattern), places, strict=True):
            # Those after a word of their own show what those after an unknown one may hold, too.
            keys = [(call.name, template.hole_name(name, word)) for word in dict.fromkeys((hole, ""))]
            self._explain(keys, state, place, task)
            for hole_key in keys:
                self._note(self._constants.setdefault(hole_key, {}), (place, "s"), task, MAX_TOLD)

    def _explain(self, keys: Sequence[ArgumentKey], state: State | None, value: object, task: str) -> None:
        lacking = [key for key in keys if len(self._explained.get(key, ())) < MAX_EXPLAINED]
        if state is None or not lacking:
            return
        ways = frozenset(explain(state, *keys[0], value))
        for key in lacking:
            self._explained.setdefault(key, []).append(ways)
            tasks = self._tasks.setdefault(key, {})
            for way in ways:
                self._note(tasks, way, task)

    def _note(self, counts: dict[T, set[str]], item: T, task: str, most: int = 0) -> None:
        """Note that a task holds the item, one of the `most` that are told apart (enough to be kept, in any case)."""
        tasks = counts.get(item)
        if tasks is None:
            counts[item] = {task}
        elif len(tasks) < max(self.k, MIN_WORD_TASKS, most):
            tasks.add(task)

    def _join(self, counts: dict[T, set[str]], others: dict[T, set[str]], most: int = 0) -> None:
        for item, tasks in others.items():
            known = counts.setdefault(item, set())
            if len(known) < max(self.k, MIN_WORD_TASKS, most):
                known |= tasks

    def _ways(self, key: ArgumentKey) -> list[Way]:
        """The ways that explain most, apart from what the model is saying and of this alone."""
        rows = self._explained.get(key, [])
        counts = Counter(way for ways in rows for way in ways)
        enough = min(2, self.k)
        pool = [way for way in counts if len(self._tasks[key][way]) >= enough]
        pool.sort(key=lambda way: (-counts[way], way))
        before, saying = [way for way in pool if way.source != NOW], [way for way in pool if way.source == NOW]
        return [*_picked(rows, before[:60], MAX_WAYS), *_picked(rows, saying[:60], MAX_SAYING_WAYS)]

    def _kept(self, key: ArgumentKey) -> list[tuple[str, str]]:
        """The constants and templates seen in enough tasks that are no secret, those of most tasks first."""
        if is_secret_name(key[1]):
            return []
        counted = self._constants.get(key, {})
        ranked = sorted((-len(tasks), value) for value, tasks in counted.items() if len(tasks) >= self.k)
        return [value for _, value in ranked if not _is_secret(*value)][:MAX_CONSTANTS]


def _picked(rows: Sequence[frozenset[Way]], pool: list[Way], most: int) -> list[Way]:
    """Those that together explain most, each adding to those before it, then those that explain most alone, which come
    first in the pool."""
    picked: list[Way] = []
    left: Iterable[frozenset[Way]] = rows
    while pool and len(picked) < most:
        gain = Counter(way for ways in left for way in ways)
        best = min(pool, key=lambda way: (-gain[way], pool.index(way)))
        if gain[best] < max(2, len(rows) // 300):
            break
        picked.append(best)
        pool.remove(best)
        left = [ways for ways in left if best not in ways]
    return picked + pool[: most - len(picked)]


def _is_secret(text: str, form: str) -> bool:
    return holds_secret(text if form == "t" else build(text, form))
