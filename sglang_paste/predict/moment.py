"""The candidates of one moment: each argument's values, and calls made of them."""

from collections.abc import Callable, Mapping, Sequence
from math import exp
from operator import itemgetter
from typing import Any

import msgspec

from sglang_paste.predict import choose, slots, template
from sglang_paste.predict.contexts import Evidence, Floats
from sglang_paste.predict.patterns import Shape
from sglang_paste.predict.state import State, text_of
from sglang_paste.predict.ways import build

BEAM = 5
_NARROW = 3
_FILLINGS = 3
Arguments = Mapping[tuple[str, str], choose.Weighed]
Likely = tuple[float, str, Any]
Filled = Callable[[str, str, str], list[tuple[float, str]]]


class Moment:
    """What may be called now. Values of an argument are looked for once, whichever calls they are for."""

    def __init__(self, arguments: Arguments, state: State, evidence: Evidence) -> None:
        self._arguments = arguments
        self._state = state
        self._evidence = evidence
        self._scene = slots.Scene(state)
        self._pools: dict[tuple[str, str], _Pool] = {}

    def __len__(self) -> int:
        """For how many arguments values were looked for."""
        return len(self._pools)

    def size_with(self, tool: str, names: Sequence[str], given: Mapping[str, Any]) -> int:
        """For how many it would be with those of one more shape."""
        return len(self) + sum([name not in given and (tool, name) not in self._pools for name in names])

    def calls(
        self, shape: Shape, names: Sequence[str], given: Mapping[str, Any], least: float = 0.0
    ) -> list[tuple[float, str, dict[str, Any]]]:
        """The likeliest arguments of a shape, of those in `names`, and one text for each call; the `given` ones are
        as they are. Nothing where all are less likely than `least`."""
        beams: list[tuple[float, list[str], list[Any]]] = [(1.0, [], [])]
        for name in names:
            if name in given:
                text = text_of(given[name])
                beams = [(p, [*texts, text], [*chosen, given[name]]) for p, texts, chosen in beams]
                continue
            pool = self.pool(shape.tool, name)
            longer = []
            for p, texts, chosen in beams:
                for q, text, value in pool.values(texts, self.filled):
                    longer.append((p * q, [*texts, text], [*chosen, value]))
            longer.sort(key=first, reverse=True)
            beams = longer[: BEAM if name is names[-1] else _NARROW]
            if not beams or beams[0][0] < least:
                return []
        return [
            (p, mark(shape.tool, names, texts, chosen), dict(zip(names, chosen, strict=True)))
            for p, texts, chosen in beams
        ]

    def reach(self, tool: str, names: Sequence[str], given: Mapping[str, Any]) -> float:
        """The share of calls with these arguments that are among the candidates, as a rule."""
        share = 1.0
        for name in names:
            if name not in given:
                share *= self._arguments[tool, name].argument.reach
        return share

    def pool(self, tool: str, name: str) -> "_Pool":
        """The candidates of an argument."""
        key = (tool, name)
        pool = self._pools.get(key)
        if pool is None:
            weighed = self._arguments[key]
            odds = self._evidence.odds(key)
            pool = self._pools[key] = _Pool(weighed, self._state, self._scene, odds)
        return pool

    def filled(self, tool: str, name: str, text: str) -> list[tuple[float, str]]:
        """A template with its holes filled, in the likeliest ways."""
        beams: list[tuple[float, list[str]]] = [(1.0, [])]
        for hole in template.holes(text):
            hole_name = template.hole_name(name, hole)
            if (tool, hole_name) not in self._arguments:
                hole_name = template.hole_name(name)
                if (tool, hole_name) not in self._arguments:
                    return []
            pool = self.pool(tool, hole_name)
            longer = [
                (p * q, [*values, text])
                for p, values in beams
                for q, text, _ in pool.values((), self.filled)
                if text not in values
            ]
            beams = sorted(longer, key=first, reverse=True)[:_FILLINGS]
        return [(p, template.fill(text, values)) for p, values in beams]


class _Pool:
    """The candidates of one argument, scored but for how they stand to the arguments before it."""

    def __init__(self, weighed: choose.Weighed, state: State, scene: slots.Scene, odds: Floats) -> None:
        self._weighed = weighed
        self._state = state
        argument = weighed.argument
        context = slots.Context(state, scene, argument.tool, argument.name)
        found, size = weighed.prescore(state, context, odds)
        self._none = exp(min(weighed.none_score(size, context), 50.0))
        self._scored = weighed.closer(found, context)
        self._texts = [text for _, text, _ in self._scored]
        self._likely: dict[tuple[int, ...], list[Likely]] = {}

    def values(self, earlier: Sequence[str], filled: Filled) -> list[Likely]:
        """The likeliest values, given the texts of the arguments before. Templates are `filled` by the moment, which a
        pool does not hold, so that both are freed at once."""
        related = tuple(slots.related(self._texts, earlier, self._state)) if earlier else ()
        likely = self._likely.get(related)
        if likely is None:
            weights = self._weighed.related
            scores = [score for score, _, _ in self._scored]
            if related:
                scores = [score + weights[how] for score, how in zip(scores, related, strict=True)]
            likely = self._likely[related] = self._built(scores, filled)
        return likely

    def _built(self, scores: list[float], filled: Filled) -> list[Likely]:
        pairs = zip(scores, self._scored, strict=True)
        odds = [(exp(min(score, 50.0)), text, form) for score, (_, text, form) in pairs]
        total = sum([odd for odd, _, _ in odds]) + self._none
        odds.sort(key=first, reverse=True)
        argument = self._weighed.argument
        built: dict[tuple[str, bool], Likely] = {}

        def add(p: float, text: str, value: Any) -> None:
            key = (text, value is text)
            built[key] = (p + built[key][0] if key in built else p, text, value)

        for odd, text, form in odds[:BEAM]:
            p = odd / total
            if form == "t":
                for q, whole in filled(argument.tool, argument.name, text):
                    add(p * q, whole, whole)
                continue
            try:
                add(p, text, text if form == "s" else build(text, form))
            except (ValueError, msgspec.DecodeError):
                continue
        found = list(built.values())
        found.sort(key=first, reverse=True)
        return found[:BEAM]


def mark(tool: str, names: Sequence[str], texts: Sequence[str], values: Sequence[Any]) -> str:
    """One text for a call."""
    pairs = zip(names, texts, values, strict=True)
    return "\0".join([tool, *[f"{name}{'=' if isinstance(value, str) else ':'}{text}" for name, text, value in pairs]])


first: Callable[[tuple[float, *tuple[Any, ...]]], float] = itemgetter(0)
"""What likely things are sorted by."""
