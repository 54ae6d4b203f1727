"""From examples to weights: of the shapes, and of each argument."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np

from sglang_paste.mine.examples import Choices, Examples, Plan
from sglang_paste.mine.fit import EPOCHS, Example, Flat, Floats, Ints, logit, reach, softmax
from sglang_paste.mine.survey import ArgumentKey
from sglang_paste.predict import choose, slots, words
from sglang_paste.predict.contexts import log_softmax
from sglang_paste.predict.patterns import Argument, Block, Contexts, Patterns, Shape

_FEW = 2
_LEAST_WEIGHT = 0.01


class Lesson:
    """The examples of several parts of the sessions, of which some may be left out."""

    def __init__(self, plan: Plan, parts: Sequence[Examples]) -> None:
        self._plan = plan
        self._parts = [_Part(part) for part in parts]

    def shapes(self, without: int | None = None) -> Block:
        """The weights of the shapes; without what is in one part."""
        examples: list[Example] = []
        for part in self._chosen(without):
            for moment, shape in enumerate(part.shapes):
                if shape >= 0:
                    allowed = part.sets[part.allowed[moment]]
                    examples.append((part.rows(moment), allowed, int(np.searchsorted(allowed, shape))))
        return self._block(examples, len(self._plan.shapes), _epochs(without))

    def argument(self, key: ArgumentKey, sides: Sequence[int | None]) -> list[Argument]:
        """An argument with its weights: for each side without what is in that part."""
        odds = self._odds(key)
        flats = [odds.put(part, part.choices[key]) if key in part.choices else None for part in self._parts]
        return [self._argument(key, flats, side) for side in sides]

    def _argument(self, key: ArgumentKey, flats: Sequence[Flat | None], without: int | None) -> Argument:
        plain = self._plan.arguments[key]
        block = Block(0)
        if plain.constants:
            examples = [example for half in self._constants(key, without) for example in half]
            block = self._block(examples, len(plain.constants) + 1, _epochs(without))
        choices = _joined([flat for number, flat in enumerate(flats) if flat is not None and number != without])
        weights = logit(choices, choose.width(plain) + slots.NONE)
        table = weights.astype("<f4").tobytes()
        return Argument(*key, plain.ways, plain.constants, block, table, reach(choices, weights))

    def _odds(self, key: ArgumentKey) -> "_Odds":
        """The odds of the constants, in each half of the tasks as the other one has them."""
        plain = self._plan.arguments[key]
        columns = len(plain.constants) + 1
        examples = self._constants(key, None)
        rows = [rows for half in examples for rows, _, _ in half]
        known: Ints = np.unique(np.concatenate(rows)) if rows else np.zeros(0, np.int64)
        halves = [self._weights(half, known, columns, _FEW) for half in examples[::-1]]
        return _Odds(known, halves, slots.VALUE + slots.WAY * len(plain.ways) + len(plain.constants))

    def _constants(self, key: ArgumentKey, without: int | None) -> list[list[Example]]:
        """The moments of an argument and the constants it had, of each half of the tasks."""
        halves: list[list[Example]] = [[], []]
        for part in self._chosen(without):
            for moment, right in part.constants.get(key, ()):
                halves[part.halves[moment]].append((part.rows(moment), None, right))
        return halves

    def patterns(self, shapes: Block, arguments: Iterable[Argument]) -> Patterns:
        """All of it together, not calibrated."""
        plan = self._plan
        return Patterns(
            k=plan.k,
            shapes=[Shape(tool, names, *self._run_time(number)) for number, (tool, names) in enumerate(plan.shapes)],
            contexts=Contexts([words.crc(word) for word in plan.words], shapes),
            arguments=list(arguments),
            together={tool: sorted(others) for tool, others in sorted(plan.together.items())},
        )

    def _chosen(self, without: int | None) -> "Iterable[_Part]":
        return (part for number, part in enumerate(self._parts) if number != without)

    def _block(self, examples: list[Example], columns: int, epochs: int) -> Block:
        rows: Ints = np.unique(np.concatenate([rows for rows, _, _ in examples])) if examples else np.zeros(0, np.int64)
        weights = self._weights(examples, rows, columns, epochs)
        telling = np.abs(weights).max(axis=1, initial=0.0) >= _LEAST_WEIGHT
        return Block(columns, rows[telling].astype("<i4").tobytes(), weights[telling].astype("<f2").tobytes())

    def _weights(self, examples: list[Example], known: Ints, columns: int, epochs: int) -> Floats:
        own = [(np.searchsorted(known, rows), allowed, right) for rows, allowed, right in examples]
        return softmax(own, self._plan.values[known], columns, epochs)

    def _run_time(self, number: int) -> tuple[float | None, float | None]:
        runs = sorted([run for part in self._parts for run in part.runs.get(number, ())])
        if not runs:
            return None, None
        return runs[len(runs) // 2], runs[int(len(runs) * 0.9)]


def _epochs(without: int | None) -> int:
    return EPOCHS if without is None else _FEW


class _Part:
    """The examples of a part as arrays."""

    def __init__(self, examples: Examples) -> None:
        self._rows = np.frombuffer(examples.rows, np.int32).astype(np.int64)
        starts = np.frombuffer(examples.starts, np.int32).tolist()
        self._places = list(pairwise([*starts, len(self._rows)]))
        self.halves = np.frombuffer(examples.halves, np.int8).tolist()
        self.shapes = np.frombuffer(examples.shapes, np.int32).tolist()
        self.allowed = np.frombuffer(examples.allowed, np.int32).tolist()
        self.sets = [np.asarray(allowed, np.int64) for allowed in examples.sets]
        self.choices = examples.choices
        self.constants = examples.constants
        self.runs = examples.runs

    def rows(self, moment: int) -> Ints:
        start, end = self._places[moment]
        return self._rows[start:end]


class _Odds:
    """Puts the slots of the constants' odds into choices, by weights that were learned from the other half."""

    def __init__(self, known: Ints, halves: Sequence[Floats], after: int) -> None:
        self._known = known
        self._halves = halves
        self._after = after

    def put(self, part: _Part, choices: Choices) -> Flat:
        flat = np.frombuffer(choices.slots, np.int16).astype(np.int64)
        starts, firsts, right = (
            np.frombuffer(data, np.int32).astype(np.int64) for data in (choices.starts, choices.firsts, choices.right)
        )
        unknown = np.flatnonzero(flat < 0)
        if len(unknown):
            moments = np.frombuffer(choices.moments, np.int32).tolist()
            buckets = np.stack([self._buckets(part, moment) for moment in moments])
            example = np.searchsorted(starts[firsts], unknown, side="right") - 1
            flat[unknown] = self._after + buckets[example, -1 - flat[unknown]]
        return flat, starts, firsts, right

    def _buckets(self, part: _Part, moment: int) -> Ints:
        rows = part.rows(moment)
        places = np.searchsorted(self._known, rows)
        places = places[self._known[np.minimum(places, len(self._known) - 1)] == rows]
        scores: Floats = self._halves[part.halves[moment]][places].sum(axis=0)
        return slots.odds_buckets(log_softmax(scores))


def _joined(flats: Sequence[Flat]) -> Flat:
    if not flats:
        nothing: Ints = np.zeros(0, np.int64)
        return nothing, nothing, nothing, nothing
    starts, firsts, right = [], [], []
    slots_before = candidates_before = 0
    for flat in flats:
        starts.append(flat[1] + slots_before)
        firsts.append(flat[2] + candidates_before)
        right.append(flat[3] + candidates_before)
        slots_before += len(flat[0])
        candidates_before += len(flat[1])
    return (
        np.concatenate([flat[0] for flat in flats]),
        np.concatenate(starts),
        np.concatenate(firsts),
        np.concatenate(right),
    )
