"""Mined patterns at work: a session's messages in, candidates for its next call out."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from math import exp
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from sglang_paste.predict import choose, patternfile, slots, template
from sglang_paste.predict.base import RunTime
from sglang_paste.predict.contexts import ContextModel, Floats, Reading, log_softmax
from sglang_paste.predict.patterns import Argument, Patterns, Shape
from sglang_paste.predict.state import State, text_of
from sglang_paste.predict.ways import build

_BEAM = 6
_SHAPES = 6
_LEAST = 0.003
_DEFAULT_RUN = RunTime(p50=0.5, p90=2.0)


class Candidate(msgspec.Struct, frozen=True):
    """A call that may come next, and the probability that it is exactly this one."""

    tool: str
    arguments: dict[str, Any]
    probability: float
    run_time: RunTime


class Mined:
    """Loaded patterns. Sessions made from it share it and change nothing in it."""

    def __init__(self, patterns: Patterns) -> None:
        self.patterns = patterns
        self.contexts = ContextModel(patterns.contexts)
        self.arguments = {(item.tool, item.name): _weighed(item) for item in patterns.arguments}
        self.shapes: dict[str, list[int]] = {}
        for number, item in enumerate(patterns.shapes):
            self.shapes.setdefault(item.tool, []).append(number)
        self.together = {tool: frozenset(others) for tool, others in patterns.together.items()}
        self.wanted = choose.wanted(patterns.arguments)

    def session(
        self, tools: Iterable[str] | None = None, *, tenant: str = "", inert: Collection[str] = ()
    ) -> "MinedSession":
        """A new session that may call `tools` (any, where None). Arguments named in `inert`, alone or as
        `tool.argument`, cannot change a result: candidates leave them out."""
        return MinedSession(self, None if tools is None else frozenset(tools), frozenset(inert))


class MinedSession:
    """One session: observe each message, then ask."""

    def __init__(self, mined: Mined, tools: frozenset[str] | None, inert: frozenset[str]) -> None:
        self._mined = mined
        self._tools = tools
        self._inert = inert
        self._reading = Reading(mined.contexts)
        self._ids: dict[str, str] = {}
        self._waiting: list[str] = []
        self.state = State(mined.wanted)

    def offer(self, tools: Iterable[str]) -> None:
        """From now on the model may call these tools."""
        self._tools = frozenset(tools)

    def fork(self) -> "MinedSession":
        """A copy that goes its own way, for what may come."""
        other = MinedSession(self._mined, self._tools, self._inert)
        other._ids, other._waiting = dict(self._ids), list(self._waiting)
        other.state = self.state.fork()
        return other

    def observe(self, message: Mapping[str, Any]) -> None:
        """Take in the next message, in OpenAI form."""
        role = message.get("role")
        content = _plain(message.get("content"))
        state = self.state
        if role in ("system", "developer"):
            state.system(content)
        elif role == "user":
            state.user(content)
        elif role == "assistant":
            state.said(content)
            self._waiting = []
            for call in message.get("tool_calls") or ():
                function = call.get("function") or {}
                name = function.get("name", "")
                state.call(name, _arguments(function.get("arguments")))
                self._ids[call.get("id") or ""] = name
                self._waiting.append(name)
        elif role == "tool":
            name = message.get("name") or self._ids.get(message.get("tool_call_id") or "")
            if not name:
                name = self._waiting[0] if self._waiting else ""
            if name in self._waiting:
                self._waiting.remove(name)
            state.result(name, content)

    def candidates(self, k: int = 5, tool: str | None = None) -> list[Candidate]:
        """The likeliest next calls, best first; with `tool`, given that this tool is called."""
        scores = self._reading.scores(self.state)
        scene = slots.Scene(self.state)
        found: dict[str, tuple[float, Shape, dict[str, Any]]] = {}
        pools: dict[tuple[str, str], _Pool] = {}
        for probability, number in self._shapes(tool, scores)[:_SHAPES]:
            if found and (probability < _LEAST or (len(found) >= k and self._enough(found, k, probability))):
                break
            shape = self._mined.patterns.shapes[number]
            for p, arguments in self._calls(shape, probability, scores, scene, pools):
                mark = f"{shape.tool} {json.dumps(arguments, sort_keys=True)}"
                if mark in found:
                    p += found[mark][0]
                found[mark] = (p, shape, arguments)
        best = sorted(found.values(), key=lambda item: -item[0])[:k]
        return [Candidate(shape.tool, arguments, p, _run_time(shape)) for p, shape, arguments in best]

    def _enough(self, found: dict[str, tuple[float, Shape, dict[str, Any]]], k: int, probability: float) -> bool:
        """Whether no call of a shape this probable could be among the best `k`."""
        return sorted((p for p, _, _ in found.values()), reverse=True)[k - 1] >= probability

    def tools(self) -> dict[str, float]:
        """The probability of each tool."""
        found: dict[str, float] = {}
        for p, number in self._shapes(None, self._reading.scores(self.state)):
            tool = self._mined.patterns.shapes[number].tool
            found[tool] = found.get(tool, 0.0) + p
        return found

    def _shapes(self, tool: str | None, scores: Floats) -> list[tuple[float, int]]:
        mined = self._mined
        if tool is not None:
            allowed = mined.shapes.get(tool, [])
        else:
            tools = self._tools
            for name in self.state.tools:
                others = mined.together.get(name)
                if others is not None:
                    tools = others if tools is None else tools & others
            if tools is None:
                tools = frozenset(mined.shapes)
            allowed = [number for name in sorted(tools) for number in mined.shapes.get(name, ())]
        if not allowed:
            return []
        probabilities = np.exp(log_softmax(scores[allowed])).tolist()
        return sorted(zip(probabilities, allowed, strict=True), key=lambda item: -item[0])

    def _calls(
        self,
        shape: Shape,
        probability: float,
        scores: Floats,
        scene: slots.Scene,
        pools: dict[tuple[str, str], "_Pool"],
    ) -> list[tuple[float, dict[str, Any]]]:
        beams: list[tuple[float, dict[str, Any]]] = [(probability, {})]
        for name in shape.names:
            if name in self._inert or f"{shape.tool}.{name}" in self._inert:
                continue
            key = (shape.tool, name)
            pool = pools.get(key)
            if pool is None:
                pool = pools[key] = _Pool(self._mined, self.state, scene, scores, key)
            longer = []
            for p, arguments in beams:
                for q, value in pool.values([text_of(other) for other in arguments.values()]):
                    longer.append((p * q, {**arguments, name: value}))
            longer.sort(key=lambda item: -item[0])
            beams = longer[:_BEAM]
        return beams


class _Pool:
    """The candidates of one argument in one moment, scored but for how they stand to the arguments before it."""

    def __init__(self, mined: Mined, state: State, scene: slots.Scene, scores: Floats, key: tuple[str, str]) -> None:
        self._mined = mined
        self._state = state
        self._scene = scene
        self._scores = scores
        self._weighed = weighed = mined.arguments[key]
        context = slots.Context(state, scene, *key)
        first = weighed.prescore(state, context, choose.odds(weighed.argument, scores))
        self._none = exp(weighed.none_score(len(first), context))
        self._scored = [(weighed.score(value, first[value], context), value) for value in choose.best(first)]
        self._alone: list[tuple[float, Any]] | None = None

    def values(self, earlier: Sequence[str]) -> list[tuple[float, Any]]:
        """The likeliest values, given the texts of the arguments before."""
        if not earlier and self._alone is not None:
            return self._alone
        weights, state = self._weighed.weights, self._state
        odds = [
            (exp(score + weights[slots.related(value[0], earlier, state)] if earlier else score), value)
            for score, value in self._scored
        ]
        total = sum([odd for odd, _ in odds]) + self._none
        odds.sort(key=_first, reverse=True)
        found: list[tuple[float, Any]] = []
        for odd, (text, form) in odds[:_BEAM]:
            if form == "t":
                found.extend((odd / total * q, filled) for q, filled in self._filled(text))
                continue
            try:
                found.append((odd / total, build(text, form)))
            except ValueError:
                continue
        found.sort(key=_first, reverse=True)
        del found[_BEAM:]
        if not earlier:
            self._alone = found
        return found

    def _filled(self, text: str) -> list[tuple[float, str]]:
        beams: list[tuple[float, list[str]]] = [(1.0, [])]
        argument = self._weighed.argument
        for hole in template.holes(text):
            key = (argument.tool, f"{argument.name}<{hole}>")
            pool = _Pool(self._mined, self._state, self._scene, self._scores, key)
            beams = [
                (p * q, [*values, value]) for p, values in beams for q, value in pool.values(()) if value not in values
            ]
            beams.sort(key=lambda item: -item[0])
            del beams[3:]
        return [(p, template.fill(text, values)) for p, values in beams]


def load(path: Path | str) -> Mined:
    """The patterns in a file that `sglang-paste mine` wrote. Raises ConfigError where it is foreign or damaged."""
    return Mined(patternfile.load(Path(path), Patterns))


def _weighed(argument: Argument) -> choose.Weighed:
    return choose.Weighed(argument, np.frombuffer(argument.weights, "<f4").tolist())


def _first(item: tuple[float, Any]) -> float:
    return item[0]


def _run_time(shape: Shape) -> RunTime:
    if shape.p50 is None or shape.p90 is None:
        return _DEFAULT_RUN
    return RunTime(p50=shape.p50, p90=shape.p90)


def _arguments(given: Any) -> dict[str, Any]:
    if isinstance(given, str):
        try:
            given = json.loads(given or "{}")
        except ValueError:
            return {}
    return given if isinstance(given, dict) else {}


def _plain(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, Iterable) and not isinstance(content, Mapping):
        return "\n".join(part.get("text", "") for part in content if isinstance(part, Mapping))
    return ""
