"""What is learned from: the moments of some sessions, what was chosen in them and from among what; flat arrays."""

from array import array
from collections.abc import Iterable, Iterator, Sequence

import msgspec
import numpy as np

from sglang_paste.mine.records import Call, Session
from sglang_paste.mine.replay import moments
from sglang_paste.mine.survey import ArgumentKey, ShapeKey, Survey
from sglang_paste.predict import choose, slots, template, words
from sglang_paste.predict.contexts import features
from sglang_paste.predict.memo import Memo
from sglang_paste.predict.patterns import Argument
from sglang_paste.predict.state import Outline, State, Wanted, text_of
from sglang_paste.predict.ways import form_of

MAX_CHOICES = 300
MAX_CONSTANTS = 500
MAX_RUNS = 2500
_REMEMBERED = 256


class Plan:
    """What is to be learned, as a survey found it: shapes, arguments, features."""

    def __init__(self, survey: Survey) -> None:
        self.k = survey.k
        self.together = survey.together
        self.shapes = survey.shapes()
        self.arguments = survey.arguments(self.shapes)
        self.words = survey.words()
        self.rows = {word: row for row, word in enumerate(self.words)}
        self.values = np.asarray([words.value(word) for word in self.words], np.float32)
        self.numbers: dict[ShapeKey, int] = {shape: number for number, shape in enumerate(self.shapes)}
        self.by_tool: dict[str, list[int]] = {}
        for number, (tool, _) in enumerate(self.shapes):
            self.by_tool.setdefault(tool, []).append(number)
        self.wanted = Memo(self._wanted_with, _REMEMBERED)
        """What is wanted of each source where these tools are called."""

    def allowed(self, tools: Iterable[str]) -> list[int]:
        """The shapes of all tools that were seen together with these."""
        return [number for tool in sorted(self._possible(tools)) for number in self.by_tool[tool]]

    def fillings(self, tool: str, name: str, value: object) -> Iterator[tuple[ArgumentKey, str]]:
        """What stands in the holes of a text, with the argument that is learned for each."""
        if not isinstance(value, str) or " " not in value:
            return
        pattern, places = template.split(value)
        for hole, place in zip(template.holes(pattern), places, strict=True):
            keys = [(tool, template.hole_name(name, word)) for word in (hole, "")]
            yield from [(key, place) for key in keys if key in self.arguments][:1]

    def _possible(self, tools: Iterable[str]) -> set[str]:
        return set(self.by_tool).intersection(*[self.together[tool] for tool in tools])

    def _wanted_with(self, tools: frozenset[str]) -> Wanted:
        possible = self._possible(tools)
        return choose.wanted(argument for argument in self.arguments.values() if argument.tool in possible)


class Choices(msgspec.Struct):
    """Examples of choosing one of several values of an argument.

    For each example its moment, its first candidate and the right one, which is its last where none was: `none of
    these`. For each candidate where its slots start. A slot below zero stands for the odds of a constant: -1 for the
    first one.
    """

    moments: bytes = b""
    firsts: bytes = b""
    right: bytes = b""
    starts: bytes = b""
    slots: bytes = b""


class Examples(msgspec.Struct):
    """Of some sessions: for each moment where its features start, in which half of the tasks it is, its shape (-1: one
    that is not learned), and the number of its set of possible shapes; of each argument the choices, and which constant
    it had; the seconds that calls of each shape ran."""

    starts: bytes
    rows: bytes
    halves: bytes
    shapes: bytes
    allowed: bytes
    sets: list[list[int]]
    choices: dict[ArgumentKey, Choices]
    constants: dict[ArgumentKey, list[tuple[int, int]]]
    runs: dict[int, list[float]]


class Collector:
    """Takes examples from sessions, each with the name of its task and its half."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._starts, self._rows, self._halves = array("i"), array("i"), array("b")
        self._shapes, self._allowed = array("i"), array("i")
        self._sets: dict[tuple[int, ...], int] = {}
        self._choices: dict[ArgumentKey, _Choosing] = {key: _Choosing() for key in plan.arguments}
        self._constants: dict[ArgumentKey, list[tuple[int, int]]] = {}
        self._runs: dict[int, list[float]] = {}

    def add(self, session: Session, half: int) -> None:
        """Take the examples of one session."""
        plan = self._plan
        called = [turn.tool_calls[0] for turn in session.turns if turn.tool_calls]
        lacking = [self._is_lacking(call) for call in called]
        is_read = 3 * sum(lacking) >= len(called)
        fresh = State(plan.wanted[frozenset(call.name for call in called)]) if is_read else Outline()
        for state, calls in moments(session, fresh, saying=0.5):
            call = calls[0]
            moment = self._moment(state, call, half)
            self._note_constants(call, moment)
            if is_read and self._is_lacking(call):
                self._choose(state, call, moment)
        self._time(session)

    def examples(self) -> Examples:
        """All that was taken."""
        return Examples(
            self._starts.tobytes(),
            self._rows.tobytes(),
            self._halves.tobytes(),
            self._shapes.tobytes(),
            self._allowed.tobytes(),
            [list(allowed) for allowed in self._sets],
            {key: choosing.choices() for key, choosing in self._choices.items() if len(choosing)},
            self._constants,
            self._runs,
        )

    def _moment(self, state: State, call: Call, half: int) -> int:
        plan = self._plan
        number = len(self._starts)
        self._starts.append(len(self._rows))
        self._rows.extend([row for row in map(plan.rows.get, features(state)) if row is not None])
        self._halves.append(half)
        allowed = tuple(plan.allowed(state.tools))
        shape = plan.numbers.get((call.name, tuple(sorted(call.arguments))), -1)
        self._shapes.append(shape if shape in allowed else -1)
        self._allowed.append(self._sets.setdefault(allowed, len(self._sets)))
        return number

    def _note_constants(self, call: Call, moment: int) -> None:
        for name, value in call.arguments.items():
            self._note_constant((call.name, name), value, moment)
            for key, place in self._plan.fillings(call.name, name, value):
                self._note_constant(key, place, moment)

    def _note_constant(self, key: ArgumentKey, value: object, moment: int) -> None:
        argument = self._plan.arguments.get(key)
        if argument is None or not argument.constants:
            return
        noted = self._constants.setdefault(key, [])
        if len(noted) < MAX_CONSTANTS:
            right = _constant(argument, value)
            noted.append((moment, len(argument.constants) if right is None else argument.constants.index(right)))

    def _is_lacking(self, call: Call) -> bool:
        keys = [(call.name, name) for name in call.arguments]
        return any(key in self._choices and len(self._choices[key]) < MAX_CHOICES for key in keys)

    def _choose(self, state: State, call: Call, moment: int) -> None:
        scene = slots.Scene(state)
        earlier: list[str] = []
        for name in sorted(call.arguments):
            value = call.arguments[name]
            key = (call.name, name)
            argument = self._plan.arguments.get(key)
            if argument is None:
                continue
            right = wanted_values(value)
            self._example(key, state, scene, moment, right, earlier)
            earlier.append(text_of(value))
            for hole_key, place in self._plan.fillings(call.name, name, value):
                self._example(hole_key, state, scene, moment, [(place, "s")], [])

    def _example(
        self,
        key: ArgumentKey,
        state: State,
        scene: slots.Scene,
        moment: int,
        right: Sequence[choose.Value],
        earlier: list[str],
    ) -> None:
        choosing, argument = self._choices[key], self._plan.arguments[key]
        if len(choosing) >= MAX_CHOICES:
            return
        context = slots.Context(state, scene, argument.tool, argument.name)
        found = choose.gather(argument, state, context)
        none = choose.width(argument)
        marks = [[*marks, *slots.of_value(text, context)] for (text, _), marks in found.items()]
        if earlier:
            related = slots.related([text for text, _ in found], earlier, state)
            for how, more in zip(related, marks, strict=True):
                more.append(slots.RELATED + how)
        marks.append([none + slot for slot in slots.of_none(len(found), context)])
        places = {value: place for place, value in enumerate(found)}
        choosing.add(moment, marks, next((places[value] for value in right if value in places), len(found)))

    def _time(self, session: Session) -> None:
        shapes: list[int | None] = []
        for turn in session.turns:
            if turn.tool_calls:
                shapes = [
                    self._plan.numbers.get((call.name, tuple(sorted(call.arguments)))) for call in turn.tool_calls
                ]
            for result, number in zip(turn.tool_results, shapes, strict=False):
                if result.duration_s is not None and number is not None:
                    runs = self._runs.setdefault(number, [])
                    if len(runs) < MAX_RUNS:
                        runs.append(result.duration_s)


class _Choosing:
    def __init__(self) -> None:
        self._moments, self._firsts, self._right = array("i"), array("i"), array("i")
        self._starts, self._slots = array("i"), array("h")

    def __len__(self) -> int:
        return len(self._moments)

    def add(self, moment: int, candidates: Sequence[Sequence[int]], right: int) -> None:
        self._moments.append(moment)
        self._firsts.append(len(self._starts))
        self._right.append(len(self._starts) + right)
        for marks in candidates:
            self._starts.append(len(self._slots))
            self._slots.extend(marks)

    def choices(self) -> Choices:
        parts = (self._moments, self._firsts, self._right, self._starts, self._slots)
        return Choices(*[part.tobytes() for part in parts])


def wanted_values(value: object) -> list[choose.Value]:
    """The candidates that come to this value, the nearest first: itself, its only item, its template."""
    found = [(text_of(value), form_of(value))]
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):
        found.append((value[0], "l"))
    if isinstance(value, str):
        found.append((template.split(value)[0], "t"))
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
