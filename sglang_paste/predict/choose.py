"""Candidates for one argument in two stages: all that the ways find, weighed by where they stand, then a closer look
at the best of them."""

from collections.abc import Iterable, Sequence
from heapq import nlargest

from sglang_paste.predict import slots
from sglang_paste.predict.contexts import Floats, log_softmax
from sglang_paste.predict.patterns import Argument
from sglang_paste.predict.state import State
from sglang_paste.predict.ways import built_form, values

MAX_HEAD = 7
MAX_TAIL = 1
MAX_CLOSE = 9
Value = tuple[str, str]
"""A candidate's text and its form."""

_RANKS = [tuple(range(size)) for size in range(MAX_HEAD + MAX_TAIL + 1)]


def gather(argument: Argument, state: State, context: slots.Context, odds: Sequence[float]) -> dict[Value, list[int]]:
    """All candidates of an argument, and the slots of where each stands. `odds` are the log-probabilities of its
    constants here."""
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
                    marks.append(base + slots.FRESH[fresh if fresh < 14 else 14])
                    fresh += 1
        base += slots.WAY
    after = base + len(argument.constants)
    for number, value in enumerate(argument.constants):
        found.setdefault(value, []).extend((base + number, after + slots.odds_bucket(odds[number])))
    return found


class Weighed:
    """An argument with its weights at hand."""

    def __init__(self, argument: Argument, weights: Sequence[float]) -> None:
        self.argument = argument
        self.weights = weights
        self.none = width(argument)
        self._ways = []
        base = slots.VALUE
        for way in argument.ways:
            ranks = [weights[base + slot] for slot in slots.RANK]
            fresh = [weights[base + slot] for slot in slots.FRESH]
            ends = [weights[base + slot] for slot in slots.END]
            self._ways.append((way, built_form(way.form), base, ranks, fresh, ends))
            base += slots.WAY
        self._base = base

    def prescore(self, state: State, context: slots.Context, odds: Sequence[float]) -> dict[Value, float]:
        """What the slots of `gather` come to: the first stage."""
        found: dict[Value, float] = {}
        used, weights, scene = context.used, self.weights, context.scene
        tool = 40 + scene.last_tool
        for way, form, base, ranks, fresh_scores, ends in self._ways:
            listed = values(way, state)
            if not listed:
                continue
            size = len(listed)
            age = _age(way.source, state)
            common = weights[base] + weights[base + 23 + (age if age < 5 else 5)] + weights[base + tool]
            common += weights[base + 29 + slots.bucket(size - 1)]
            fresh = 0
            left = size - 1
            for rank in _ranks(size):
                text = listed[rank]
                score = common + ranks[rank if rank < 14 else 14] + ends[left - rank if left - rank < 3 else 3]
                if text not in used:
                    score += fresh_scores[fresh]
                    fresh += 1
                value = (text, form)
                if value in found:
                    found[value] += score
                else:
                    found[value] = score
        base = self._base
        after = base + len(self.argument.constants)
        for number, value in enumerate(self.argument.constants):
            score = weights[base + number] + weights[after + slots.odds_bucket(odds[number])]
            found[value] = found.get(value, 0.0) + score
        return found

    def score(self, value: Value, first: float, context: slots.Context) -> float:
        """The second stage: what the value itself adds."""
        weights = self.weights
        return first + sum([weights[slot] for slot in slots.of_value(value[0], context)])

    def none_score(self, size: int, context: slots.Context) -> float:
        """The score of `none of these`, of which there are `size`."""
        return sum([self.weights[self.none + slot] for slot in slots.of_none(size, context)])


def best(scores: dict[Value, float]) -> list[Value]:
    """Those that get the closer look."""
    if len(scores) <= MAX_CLOSE:
        return list(scores)
    return nlargest(MAX_CLOSE, scores, key=scores.__getitem__)


def width(argument: Argument) -> int:
    """The size of an argument's weight table without the `none` block, which follows."""
    return slots.VALUE + slots.WAY * len(argument.ways) + len(argument.constants) + slots.ODDS


def odds(argument: Argument, scores: Floats) -> Sequence[float]:
    """The log-probabilities of an argument's constants, from the scores of the context."""
    if not argument.constants:
        return ()
    found: list[float] = log_softmax(scores[argument.column : argument.column + len(argument.constants) + 1]).tolist()
    return found


def wanted(arguments: Iterable[Argument]) -> dict[str, frozenset[str]]:
    """What the ways of these arguments need of each source."""
    kinds: dict[str, set[str]] = {}
    for argument in arguments:
        for way in argument.ways:
            kinds.setdefault(way.source, set()).add(way.kind)
    return {source: frozenset(found) for source, found in kinds.items()}


def _age(source: str, state: State) -> int:
    return state.turn - state.since.get(source, state.turn)


def _ranks(size: int) -> Sequence[int]:
    if size < len(_RANKS):
        return _RANKS[size]
    return (*_RANKS[MAX_HEAD], *range(size - MAX_TAIL, size))
