"""The second pass of mining: weights, from what was chosen in each moment."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from hashlib import sha256

import numpy as np

from sglang_paste.mine.fit import Choices, Example, Floats, Ints, logit, softmax
from sglang_paste.mine.records import Call, Session
from sglang_paste.mine.replay import moments
from sglang_paste.mine.survey import ArgumentKey, ShapeKey, Survey, hole_name
from sglang_paste.predict import choose, slots, template, words
from sglang_paste.predict.contexts import features
from sglang_paste.predict.patterns import Argument, Contexts, Patterns, Shape
from sglang_paste.predict.state import State, text_of
from sglang_paste.predict.ways import form_of

MAX_CHOICES = 1000
MAX_EXAMPLES = 2000
_WHOLE: dict[str, frozenset[str]] = {}
_Item = tuple[Session, str]


class Trainer:
    """Learns from sessions, each with the name of its task."""

    def __init__(self, k: int, items: Iterable[_Item]) -> None:
        self._k = k
        self._items = items
        survey = Survey(k)
        for session, task in items:
            survey.add(session, task)
        self._together = survey.together
        self._shapes = survey.shapes()
        self._arguments = survey.arguments(self._shapes)
        self._words = {word: row for row, word in enumerate(survey.words())}
        self._numbers: dict[ShapeKey, int] = {shape: number for number, shape in enumerate(self._shapes)}
        self._by_tool: dict[str, list[int]] = defaultdict(list)
        for (tool, _), number in self._numbers.items():
            self._by_tool[tool].append(number)
        column = len(self._shapes)
        for argument in self._arguments.values():
            argument.column = column
            column += len(argument.constants) + 1 if argument.constants else 0
        self._columns = column
        self._runs: dict[int, list[float]] = defaultdict(list)

    def patterns(self) -> Patterns:
        """What was learned, not calibrated."""
        matrix, odds = self._contexts()
        choices = self._choices(odds)
        for key, argument in self._arguments.items():
            argument.reach = choices[key].reach()
            argument.weights = logit(choices[key], choose.width(argument) + slots.NONE).astype("<f4").tobytes()
        order = sorted(self._words, key=words.crc)
        rows = [self._words[word] for word in order]
        return Patterns(
            k=self._k,
            shapes=[Shape(tool, names, *self._run_time(number)) for (tool, names), number in self._numbers.items()],
            contexts=Contexts([words.crc(word) for word in order], self._columns, matrix[rows].astype("<f2").tobytes()),
            arguments=list(self._arguments.values()),
            together={tool: sorted(others) for tool, others in self._together.items()},
        )

    def _contexts(self) -> tuple[Floats, list[Floats]]:
        """The context model, and two that each did not see one half of the tasks."""
        halves: tuple[list[Example], list[Example]] = [], []
        taken: Counter[int] = Counter()
        for session, task in self._items:
            examples = halves[half_of(task)]
            for state, calls in moments(session, _WHOLE):
                rows = None
                for columns, right in self._targets(state, calls[0]):
                    taken[int(columns[0])] += 1
                    if columns[0] < len(self._shapes) or taken[int(columns[0])] <= MAX_EXAMPLES:
                        rows = self._rows(state) if rows is None else rows
                        examples.append((rows, columns, right))
            self._time(session)
        values = np.asarray([words.value(word) for word in self._words], np.float32)
        whole = softmax(halves[0] + halves[1], values, self._columns)
        return whole, [softmax(half, values, self._columns, epochs=2) for half in halves[::-1]]

    def _rows(self, state: State) -> Ints:
        return np.asarray([row for row in map(self._words.get, features(state)) if row is not None], np.int64)

    def _targets(self, state: State, call: Call) -> list[tuple[Ints, int]]:
        found = []
        shape = (call.name, tuple(sorted(call.arguments)))
        allowed = self._allowed(state)
        if shape in self._numbers and self._numbers[shape] in allowed:
            found.append((np.asarray(allowed), allowed.index(self._numbers[shape])))
        for name, value in call.arguments.items():
            argument = self._arguments.get((call.name, name))
            if argument is not None and argument.constants:
                right = _constant(argument, value)
                size = len(argument.constants)
                columns = np.arange(argument.column, argument.column + size + 1)
                found.append((columns, size if right is None else argument.constants.index(right)))
        return found

    def _allowed(self, state: State) -> list[int]:
        tools: set[str] = set(self._by_tool)
        for tool in state.tools:
            tools &= self._together[tool]
        return [number for tool in sorted(tools) for number in self._by_tool[tool]]

    def _choices(self, models: Sequence[Floats]) -> dict[ArgumentKey, Choices]:
        choices: dict[ArgumentKey, Choices] = defaultdict(Choices)
        wanted = self.wanted()
        for session, task in self._items:
            called = [turn.tool_calls[0] for turn in session.turns if turn.tool_calls]
            if 3 * sum(self._is_lacking(choices, call) for call in called) < len(called):
                continue
            model = models[half_of(task)]
            for state, calls in moments(session, wanted):
                call = calls[0]
                if self._is_lacking(choices, call):
                    self._choose(choices, state, call, model[self._rows(state)].sum(axis=0))
        return choices

    def _is_lacking(self, choices: dict[ArgumentKey, Choices], call: Call) -> bool:
        keys = [(call.name, name) for name in call.arguments]
        return any(key in self._arguments and len(choices[key]) < MAX_CHOICES for key in keys)

    def _choose(self, choices: dict[ArgumentKey, Choices], state: State, call: Call, scores: Floats) -> None:
        scene = slots.Scene(state)
        earlier: list[str] = []
        for name in sorted(call.arguments):
            value = call.arguments[name]
            key = (call.name, name)
            argument = self._arguments.get(key)
            if argument is None:
                continue
            right = wanted_values(argument, value)
            self._example(choices[key], argument, state, scene, scores, right, earlier)
            earlier.append(text_of(value))
            filled = next((text for text, form in right if form == "t"), None)
            if filled is not None:
                _, places = template.split(text_of(value))
                for hole, place in zip(template.holes(filled), places, strict=True):
                    hole_key = (call.name, hole_name(name, hole))
                    inner = self._arguments[hole_key]
                    self._example(choices[hole_key], inner, state, scene, scores, {(place, "s")}, [])

    def _example(
        self,
        choices: Choices,
        argument: Argument,
        state: State,
        scene: slots.Scene,
        scores: Floats,
        right: set[choose.Value],
        earlier: list[str],
    ) -> None:
        if len(choices) >= MAX_CHOICES:
            return
        context = slots.Context(state, scene, argument.tool, argument.name)
        found = choose.gather(argument, state, context, choose.odds(argument, scores))
        none = choose.width(argument)
        marks = [[*marks, *slots.of_value(text, context)] for (text, _), marks in found.items()]
        if earlier:
            for (text, _), more in zip(found, marks, strict=True):
                more.append(slots.related(text, earlier, state))
        marks.append([none + slot for slot in slots.of_none(len(found), context)])
        places = [place for place, value in enumerate(found) if value in right]
        choices.add(marks, places[0] if places else len(found))

    def wanted(self) -> dict[str, frozenset[str]]:
        """What the ways need of each source."""
        return choose.wanted(self._arguments.values())

    def _time(self, session: Session) -> None:
        shapes: list[int | None] = []
        for turn in session.turns:
            if turn.tool_calls:
                shapes = [self._numbers.get((call.name, tuple(sorted(call.arguments)))) for call in turn.tool_calls]
            for result, number in zip(turn.tool_results, shapes, strict=False):
                if result.duration_s is not None and number is not None and len(self._runs[number]) < 10_000:
                    self._runs[number].append(result.duration_s)

    def _run_time(self, number: int) -> tuple[float | None, float | None]:
        runs = sorted(self._runs[number])
        if not runs:
            return None, None
        return runs[len(runs) // 2], runs[int(len(runs) * 0.9)]


def half_of(task: str) -> int:
    """0 or 1, by the task."""
    return sha256(f"half/{task}".encode()).digest()[0] & 1


def wanted_values(argument: Argument, value: object) -> set[choose.Value]:
    """The candidates that come to this value: itself, its only item, its template."""
    found = {(text_of(value), form_of(value))}
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        found.add((value[0], "l"))
    constant = _constant(argument, value)
    if constant is not None:
        found.add(constant)
    return found


def _constant(argument: Argument, value: object) -> tuple[str, str] | None:
    text = text_of(value)
    if (text, form_of(value)) in argument.constants:
        return text, form_of(value)
    if isinstance(value, str):
        pattern = (template.split(text)[0], "t")
        if pattern in argument.constants:
            return pattern
    return None
