"""Mined patterns at work: a session's messages in, candidates for its next call out."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import numpy as np

from sglang_paste.predict import choose, patternfile, slots, words
from sglang_paste.predict.base import RunTime
from sglang_paste.predict.patterns import Argument, Patterns
from sglang_paste.predict.state import LAST, SAID, TASK, USER, State
from sglang_paste.predict.ways import build

_BEAM = 6


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
        self.rows = {feature: row for row, feature in enumerate(patterns.contexts.features)}
        shape = (len(patterns.contexts.features), len(patterns.shapes))
        self.weights = np.frombuffer(patterns.contexts.weights, "<f2").reshape(shape).astype(np.float32)
        self.arguments: dict[tuple[str, str], tuple[Argument, list[float], list[float]]] = {}
        for argument in patterns.arguments:
            self.arguments[argument.tool, argument.name] = (
                argument,
                np.frombuffer(argument.weights, "<f4").tolist(),
                np.frombuffer(argument.none, "<f4").tolist(),
            )
        self.shapes: dict[str, list[int]] = {}
        for number, item in enumerate(patterns.shapes):
            self.shapes.setdefault(item.tool, []).append(number)
        self.together = {tool: frozenset(others) for tool, others in patterns.together.items()}

    def session(self, tools: Sequence[str] | None = None, tenant: str = "") -> "MinedSession":
        """A new session that may call `tools` (any, where None)."""
        return MinedSession(self, tools)


class MinedSession:
    """One session: observe each message, then ask."""

    def __init__(self, mined: Mined, tools: Sequence[str] | None) -> None:
        self._mined = mined
        self._tools = None if tools is None else frozenset(tools)
        self.state = State()
        self._ids: dict[str, str] = {}
        self._waiting: list[str] = []
        self._sums: dict[str, Any] = {}

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
                name, arguments = function.get("name", ""), function.get("arguments")
                if isinstance(arguments, str):
                    try:
                        arguments = json.loads(arguments or "{}")
                    except ValueError:
                        arguments = {}
                state.call(name, arguments if isinstance(arguments, dict) else {})
                self._ids[call.get("id") or ""] = name
                self._waiting.append(name)
        elif role == "tool":
            name = message.get("name") or self._ids.get(message.get("tool_call_id") or "")
            if not name:
                name = self._waiting[0] if self._waiting else ""
            if name in self._waiting:
                self._waiting.remove(name)
            state.result(name, content)
        self._sums.clear()

    def candidates(self, k: int = 5, tool: str | None = None) -> list[Candidate]:
        """The likeliest next calls, best first; with `tool`, given that this tool is called."""
        chosen = self._shapes(tool)
        found: dict[tuple[str, str], tuple[float, str, dict[str, Any], int]] = {}
        values: dict[tuple[str, str], list[tuple[float, str, str]]] = {}
        for probability, number in chosen[:6]:
            shape = self._mined.patterns.shapes[number]
            beams: list[tuple[float, dict[str, Any]]] = [(probability, {})]
            for name in shape.names:
                key = (shape.tool, name)
                if key not in values:
                    values[key] = self._values(key)
                beams = [
                    (p * q, {**arguments, name: (text, form)})
                    for p, arguments in beams
                    for q, text, form in values[key]
                ]
                beams.sort(key=lambda item: -item[0])
                del beams[_BEAM:]
            for p, texts in beams:
                try:
                    arguments = {name: build(*value) for name, value in texts.items()}
                except ValueError:
                    continue
                mark = (shape.tool, json.dumps(arguments, sort_keys=True))
                if mark not in found or found[mark][0] < p:
                    found[mark] = (p, shape.tool, arguments, number)
        best = sorted(found.values(), key=lambda item: -item[0])[:k]
        return [Candidate(t, a, p, RunTime(p50=0.5, p90=2.0)) for p, t, a, _ in best]

    def _shapes(self, tool: str | None) -> list[tuple[float, int]]:
        mined = self._mined
        if tool is not None:
            allowed = mined.shapes.get(tool, [])
        else:
            tools: frozenset[str] | None = self._tools
            for call in self.state.calls:
                others = mined.together.get(call.tool)
                if others is not None:
                    tools = others if tools is None else tools & others
            if tools is None:
                tools = frozenset(mined.shapes)
            allowed = [number for name in sorted(tools) for number in mined.shapes.get(name, ())]
        if not allowed:
            return []
        found: list[str] = list(words.of_calls(self.state))
        for source in (TASK, USER, SAID, LAST):
            text = self.state.texts.get(source)
            if text:
                found.extend(words.of_text(source, text))
        rows = [mined.rows[crc] for crc in (crc32(w.encode()) for w in found) if crc in mined.rows]
        scores = mined.weights[rows].sum(axis=0)[allowed]
        scores = np.exp(scores - scores.max())
        scores /= scores.sum()
        return sorted(zip(scores.tolist(), allowed, strict=True), key=lambda item: -item[0])

    def _values(self, key: tuple[str, str]) -> list[tuple[float, str, str]]:
        model, weights, none_weights = self._mined.arguments[key]
        context = slots.Context(self.state, *key)
        found = choose.gather(model.ways, model.constants, self.state, context)
        none = choose.none_slots(len(found), self.state, context)
        scores = [sum(weights[mark] for mark in marks) for marks in found.values()]
        scores.append(sum(none_weights[mark] for mark in none))
        array = np.exp(np.asarray(scores) - max(scores))
        array /= array.sum()
        ranked = sorted(zip(array.tolist(), found, strict=False), key=lambda item: -item[0])[:_BEAM]
        return [(p, text, form) for p, (text, form) in ranked]


def load(path: Path | str) -> Mined:
    """The patterns in a file that `sglang-paste mine` wrote. Raises ConfigError where it is foreign or damaged."""
    return Mined(patternfile.load(Path(path), Patterns))


def _plain(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, Iterable) and not isinstance(content, Mapping):
        return "\n".join(part.get("text", "") for part in content if isinstance(part, Mapping))
    return ""
