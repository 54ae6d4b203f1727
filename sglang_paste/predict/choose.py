"""Candidates for one argument, and what is known of each."""

from collections.abc import Iterable, Sequence

from sglang_paste.predict import slots
from sglang_paste.predict.contexts import Floats, log_softmax
from sglang_paste.predict.patterns import Argument
from sglang_paste.predict.state import State
from sglang_paste.predict.ways import built_form, values

MAX_HEAD = 10
MAX_TAIL = 3
Value = tuple[str, str]
"""A candidate's text and its form."""

_RANKS = [tuple(range(size)) for size in range(MAX_HEAD + MAX_TAIL + 1)]


def gather(argument: Argument, state: State, context: slots.Context, odds: Sequence[float]) -> dict[Value, list[int]]:
    """All candidates of an argument, and the slots of each in the argument's weight table. `odds` are the
    log-probabilities of its constants here."""
    found: dict[Value, list[int]] = {}
    counts: dict[Value, int] = {}
    used = context.used
    base = slots.VALUE
    for way in argument.ways:
        listed = values(way, state)
        if listed:
            form = built_form(way.form)
            age = state.turn - state.since.get(way.source, state.turn)
            size = len(listed)
            fresh = 0
            for rank in _ranks(size):
                text = listed[rank]
                known = text in used
                marks = slots.of_way(rank, -1 if known else fresh, size, age, context.scene)
                value = (text, form)
                if value in found:
                    found[value] += [base + mark for mark in marks]
                    counts[value] += 1
                else:
                    found[value] = [base + mark for mark in marks]
                    counts[value] = 1
                fresh += not known
        base += slots.WAY
    for rank, value in enumerate(argument.constants):
        marks = found.setdefault(value, [])
        marks.append(base + rank)
        marks.append(base + len(argument.constants) + slots.odds_bucket(odds[rank]))
        counts.setdefault(value, 0)
    for value, all_marks in found.items():
        all_marks += slots.of_value(value[0], context, counts[value])
    return found


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


def _ranks(size: int) -> Sequence[int]:
    if size < len(_RANKS):
        return _RANKS[size]
    return (*_RANKS[MAX_HEAD], *range(size - MAX_TAIL, size))
