"""Candidates for one argument in two stages: all that the ways find, weighed by where they stand, then a closer look
at the best of them."""

from array import array
from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt

from sglang_paste.predict import slots
from sglang_paste.predict.contexts import Floats
from sglang_paste.predict.memo import Memo
from sglang_paste.predict.patterns import Argument
from sglang_paste.predict.state import State
from sglang_paste.predict.ways import JOINED, PLAIN, Way, built_form, stem, values

MAX_HEAD = 5
MAX_TAIL = 1
MAX_CLOSE = 6
_HEADS = MAX_HEAD + MAX_TAIL
_FEW = 64
MAX_SIZE = 15  # longer lists weigh the same
MAX_SUMS = 64
_UNUSED = (False,) * _HEADS
Value = tuple[str, str]
"""A candidate's text and its form."""
Scored = tuple[float, str, str]
"""A candidate's score, text and form."""


def gather(argument: Argument, state: State, context: slots.Context) -> dict[Value, list[int]]:
    """All candidates of an argument, and the slots of where each stands. What the slot of a constant's odds is shows
    later: -1 stands for those of the first one, -2 of the second."""
    found: dict[Value, list[int]] = {}
    used = context.used
    base = slots.VALUE
    for way in argument.ways:
        listed = values(way, state)
        if listed:
            form = built_form(way.form)
            size = len(listed)
            common = [base + slot for slot in slots.of_list(size, _age(way.source, state), context.scene)]
            fresh = 0
            for rank in _ranks(size):
                text = listed[rank]
                marks = found.setdefault((text, form), [])
                marks += common
                marks.append(base + slots.RANK[rank if rank < 14 else 14])
                marks.append(base + slots.END[min(size - 1 - rank, 3)])
                if text not in used:
                    marks.append(base + slots.FRESH[fresh])
                    fresh += 1
        base += slots.WAY
    for number, value in enumerate(argument.constants):
        found.setdefault(value, []).extend((base + number, -1 - number))
    return found


class Weighed:
    """An argument with its weights at hand."""

    def __init__(self, argument: Argument, weights: Floats) -> None:
        self.argument = argument
        self.related = weights[slots.RELATED : slots.RELATED + 3].tolist()
        self._value = slots.Folded(weights)
        after = slots.VALUE + slots.WAY * len(argument.ways)
        forms: dict[str, list[_WeighedWay]] = {}
        for way, base in zip(argument.ways, range(slots.VALUE, after, slots.WAY), strict=True):
            form = built_form(way.form)
            forms.setdefault(form, []).append(_WeighedWay(way, weights[base : base + slots.WAY]))
        self._forms = list(forms.items())
        size = len(argument.constants)
        self._constants = weights[after : after + size].astype(np.float64)
        self._odds = weights[after + size : after + size + slots.ODDS].astype(np.float64)
        self._numbers: dict[str, dict[str, int]] = {}
        for number, (text, form) in enumerate(argument.constants):
            self._numbers.setdefault(form, {})[text] = number
        self._none: list[float] = weights[width(argument) :].tolist()

    def prescore(self, state: State, context: slots.Context, odds: Floats) -> tuple[list[Scored], int]:
        """What the slots of `gather` come to, the first stage, for all values but the constants that are not among the
        best; and how many values there are with these."""
        found: list[Scored] = []
        both: set[int] = set()
        constants = self.argument.constants
        constant = self._constants + self._odds[slots.odds_buckets(odds[:-1])] if constants else self._constants
        used, tool = context.used, context.scene.last_tool
        for form, ways in self._forms:
            scores: dict[str, float] = {}
            for way in ways:
                way.add(state, used, tool, scores)
            numbers = self._numbers.get(form)
            if numbers is not None:
                for text in scores.keys() & numbers.keys():
                    scores[text] += float(constant[numbers[text]])
                    both.add(numbers[text])
            found += [(score, text, form) for text, score in scores.items()]
        size = len(found) + len(constants) - len(both)
        if constants:
            most = MAX_CLOSE + len(both)
            best = range(len(constants)) if len(constants) <= most else highest(constant, most).tolist()
            found += [(float(constant[number]), *constants[number]) for number in best if number not in both]
        return found, size

    def closer(self, found: list[Scored], context: slots.Context) -> list[Scored]:
        """The second stage, for the best of the first: what the value itself adds."""
        best = sorted(found, key=itemgetter(0), reverse=True)[:MAX_CLOSE]
        added = self._value.score
        return [(score + added(text, context), text, form) for score, text, form in best]

    def none_score(self, size: int, context: slots.Context) -> float:
        """The score of `none of these`, of which there are `size`."""
        return sum([self._none[slot] for slot in slots.of_none(size, context)])


class _WeighedWay:
    """One way with its weights: what the ranks of a list add is summed once for each size and for which of its values
    were used before."""

    __slots__ = ("_joined", "_kind", "_listed", "_source", "_sums", "_way", "_weights")

    def __init__(self, way: Way, weights: Floats) -> None:
        self._way = way
        self._source, self._kind = way.source, way.kind
        self._joined = way.form if way.form in JOINED else ""
        self._listed = way.form in PLAIN or way.form in JOINED
        self._weights = array("f", weights)
        self._sums: Memo[tuple[int, tuple[bool, ...]], list[float]] = Memo(self._summed, MAX_SUMS)

    def add(self, state: State, used: dict[str, tuple[int, int]], tool: int, found: dict[str, float]) -> None:
        """Add the scores of the way's values to what was found."""
        listed = state.values(self._source, self._kind) if self._listed else values(self._way, state)
        size = len(listed)
        if not size:
            return
        texts = listed if size <= _HEADS else [*listed[:MAX_HEAD], listed[-1]]
        if self._joined:
            start = stem(state, self._joined)
            if not start:
                return
            texts = [start + text for text in texts]
        are_used = tuple(map(used.__contains__, texts)) if used else _UNUSED[: len(texts)]
        sums = self._sums[size if size < MAX_SIZE else MAX_SIZE, are_used]
        weights, age = self._weights, state.turn - state.since.get(self._source, state.turn)
        common = weights[23 + (age if age < 5 else 5)] + weights[40 + tool]
        for text, score in zip(texts, sums, strict=True):
            found[text] = found.get(text, 0.0) + score + common

    def _summed(self, key: tuple[int, tuple[bool, ...]]) -> list[float]:
        """What each rank of a list adds, and that it is the first, second, ... of those not used before."""
        size, are_used = key
        weights, fresh = self._weights, 0
        common = weights[0] + weights[29 + slots.bucket(size - 1)]
        sums = []
        for rank, is_used in zip(_ranks(size), are_used, strict=True):
            score = common + weights[slots.RANK[min(rank, 14)]] + weights[slots.END[min(size - 1 - rank, 3)]]
            if not is_used:
                score += weights[slots.FRESH[fresh]]
                fresh += 1
            sums.append(score)
        return sums


def width(argument: Argument) -> int:
    """The size of an argument's weight table without the `none` block, which follows."""
    return slots.VALUE + slots.WAY * len(argument.ways) + len(argument.constants) + slots.ODDS


def wanted(arguments: Iterable[Argument]) -> dict[str, frozenset[str]]:
    """What the ways of these arguments need of each source."""
    kinds: dict[str, set[str]] = {}
    for argument in arguments:
        for way in argument.ways:
            kinds.setdefault(way.source, set()).add(way.kind)
    return {source: frozenset(found) for source, found in kinds.items()}


def highest(scores: npt.NDArray[np.floating[Any]], count: int) -> npt.NDArray[np.intp]:
    """The places of the highest scores, the highest first; of equal ones the first."""
    if len(scores) <= max(count, _FEW):
        return np.argsort(-scores, kind="stable")[:count]
    some = np.flatnonzero(scores >= np.partition(scores, -count)[-count])
    return some[np.argsort(-scores[some], kind="stable")[:count]]


def _age(source: str, state: State) -> int:
    return state.turn - state.since.get(source, state.turn)


def _ranks(size: int) -> Sequence[int]:
    return range(size) if size <= _HEADS else (*range(MAX_HEAD), size - 1)
