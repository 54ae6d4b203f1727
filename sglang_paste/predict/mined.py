"""Mined patterns at work: a session's messages in, candidates for its next call out.

>>> session = load("patterns").session(tools=["search", "open"])   # doctest: +SKIP
>>> session.observe({"role": "user", "content": "Who wrote Emma?"})   # doctest: +SKIP
>>> session.candidates(3)   # doctest: +SKIP
"""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace

from sglang_paste.calls import DEFAULT_TENANT
from sglang_paste.predict import choose, patternfile
from sglang_paste.predict.base import RunTime
from sglang_paste.predict.contexts import ContextModel, Floats, Reading
from sglang_paste.predict.memo import Memo
from sglang_paste.predict.moment import Moment, first
from sglang_paste.predict.moment import mark as mark_of
from sglang_paste.predict.patterns import Argument, Block, Contexts, Patterns, Shape
from sglang_paste.predict.recall import Memory, Recaller, Sight, parsed
from sglang_paste.predict.state import NOW, State, Wanted, text_of
from sglang_paste.predict.toolset import Toolset

_SHAPES = 5
_REMEMBERED = 256
_HOPELESS = 0.03
_MAX_ARGUMENTS_CHARS = 65_536
_MAX_POOLS = 6
_DEFAULT_RUN = RunTime(p50=0.5, p90=2.0)
Tool = str | Mapping[str, Any]
_Found = dict[str, tuple[float, str, dict[str, Any]]]


class Candidate(msgspec.Struct, frozen=True):
    """A call that may come next, the probability that it is exactly this one, how long it would run, and what may
    follow it."""

    tool: str
    arguments: dict[str, Any]
    probability: float
    run_time: RunTime
    then: tuple["Candidate", ...] = ()


class Mined:
    """Loaded patterns. Sessions made from it share it and change nothing in it."""

    def __init__(self, patterns: Patterns) -> None:
        self.contexts = ContextModel(patterns.contexts, patterns.arguments)
        self.arguments = {
            (argument.tool, argument.name): choose.Weighed(_light(argument), np.frombuffer(argument.weights, "<f4"))
            for argument in patterns.arguments
        }
        self.patterns = replace(
            patterns,
            contexts=Contexts([], Block(0)),
            arguments=[weighed.argument for weighed in self.arguments.values()],
            recollections={},
        )
        self.tools = Toolset(patterns.shapes, patterns.together)
        self._run_times: dict[tuple[str, tuple[str, ...] | None], RunTime] = {}
        for item in patterns.shapes:
            if item.p50:
                run_time = RunTime(p50=item.p50, p90=item.p90 or 0.0)
                self._run_times[item.tool, item.names] = run_time
                self._run_times.setdefault((item.tool, None), run_time)
        self.wanted = Memo(self._wanted_of, _REMEMBERED)
        """What the arguments of a set of tools need of each source."""
        self._memories = {tenant: Memory(own) for tenant, own in patterns.recollections.items()}
        self._memories.setdefault(DEFAULT_TENANT, Memory())

    def session(
        self, tools: Iterable[Tool] | None = None, *, tenant: str = "", inert: Collection[str] = ()
    ) -> "MinedSession":
        """A new session that may call `tools`, given by name or in OpenAI form (any, where None).

        It recalls the calls of its own `tenant` alone. Arguments named in `inert`, alone or as `tool.argument`, cannot
        change a result: candidates leave them out.
        """
        memory = self._memories.get(tenant or DEFAULT_TENANT)
        offered = None if tools is None else _names(tools)
        return MinedSession(self, offered, frozenset(inert), Memory() if memory is None else memory)

    def _wanted_of(self, tools: int) -> Wanted:
        names = self.tools.names(tools)
        return choose.wanted(argument for argument in self.patterns.arguments if argument.tool in names)

    def real(self, tool: str, raw: float, is_best: bool, is_saying: bool) -> float:
        """A probability as it turned out for other calls of the tool."""
        levels = self.patterns.saying if is_saying else self.patterns.levels
        level = levels.get(tool) or levels.get("")
        return raw if level is None else level.real(raw, is_best)

    def run_time(self, tool: str, arguments: Collection[str]) -> RunTime:
        """How long a call with these arguments takes, or a guess where none was timed."""
        known = self._run_times.get((tool, tuple(sorted(arguments)))) or self._run_times.get((tool, None))
        return known or _DEFAULT_RUN


class MinedSession:
    """One session: observe each message, then ask."""

    def __init__(self, mined: Mined, tools: frozenset[str] | None, inert: frozenset[str], memory: Memory) -> None:
        self._mined = mined
        self._tools = tools
        self._inert = inert
        self._reading = Reading(mined.contexts)
        self._recaller = Recaller(memory)
        self._made: list[tuple[list[Sight], str, dict[str, Any]]] = []
        self._ids: dict[str, str] = {}
        self._waiting: list[str] = []
        self._read_for = self._offered = mined.tools.of(tools)
        self.state = State(mined.wanted[self._read_for])

    def offer(self, tools: Iterable[Tool] | None) -> None:
        """From now on the model may call these tools; any, where None."""
        self._tools = None if tools is None else _names(tools)
        self._offered = self._mined.tools.of(self._tools)
        self._read_for |= self._offered

    def fork(self) -> "MinedSession":
        """A copy that goes its own way, for what may come."""
        other = MinedSession(self._mined, self._tools, self._inert, self._recaller.memory)
        other._recaller = self._recaller.fork()
        other._ids, other._waiting, other._read_for = dict(self._ids), list(self._waiting), self._read_for
        other.state = self.state.fork()
        return other

    def observe(self, message: Mapping[str, Any]) -> None:
        """Take in the next message, in OpenAI form: system, user, assistant with or without `tool_calls`, or tool."""
        role = message.get("role")
        content = _plain(message.get("content"))
        if role in ("system", "developer"):
            self.state.system(content)
        elif role == "user":
            self.state.user(content)
        elif role == "assistant":
            self._answered(content, message.get("tool_calls") or ())
        elif role == "tool":
            self.state.result(self._caller(message), content)

    def remember(self) -> None:
        """The task is done: its tenant's later sessions recall its calls. A tenant whose sessions were not mined has
        no memory, but for the default one."""
        for sights, tool, arguments in self._made:
            self._recaller.memory.add(sights, tool, arguments)
        self._made = []

    def observe_partial(self, text: str) -> None:
        """All text the model has streamed so far in the message that will hold the call; it counts until the message
        as a whole is observed."""
        self.state.saying(text)

    def assume(self, tool: str, arguments: Mapping[str, Any]) -> None:
        """A call is made whose result is not known yet; for a `fork`, since messages count when they are observed."""
        self.state.said("")
        self.state.call(tool, arguments)
        self.state.calls[-1].outcome = "ok"
        self.state.role = "tool"

    def candidates(
        self, k: int = 5, tool: str | None = None, partial: Mapping[str, Any] | None = None, ahead: int = 0
    ) -> list[Candidate]:
        """The `k` likeliest next calls, best first.

        With `tool`, given that this tool is called; with `partial`, given that its arguments begin with these. `ahead`
        says how many calls that may follow to name with each, as far as they do not depend on its result.
        """
        given = partial or {}
        evidence = self._reading.read(self.state)
        moment = Moment(self._mined.arguments, self.state, evidence)
        found: _Found = {}
        for hope, probability, shape, names in self._promising(moment, tool, given, evidence.shapes):
            least = _least(found, k)
            if hope <= (least if tool else max(least, _HOPELESS)):
                break
            if found and moment.size_with(shape.tool, names, given) > _MAX_POOLS:
                continue
            for p, mark, arguments in moment.calls(shape, names, given, least / probability):
                p *= probability
                found[mark] = (p + found[mark][0] if mark in found else p, shape.tool, arguments)
        self._make_real(found)
        self._recall(found, tool, given)
        best = sorted(found.values(), key=first, reverse=True)[:k]
        return [
            Candidate(
                name,
                arguments,
                min(p, 0.999),
                self._mined.run_time(name, arguments),
                self._then(name, arguments, ahead),
            )
            for p, name, arguments in best
        ]

    def _make_real(self, found: _Found) -> None:
        """Put the probabilities that candidates turned out to have in place of the raw ones."""
        best, is_saying = max(found.values(), key=first, default=None), NOW in self.state.texts
        for mark, candidate in found.items():
            p, name, arguments = candidate
            found[mark] = (self._mined.real(name, p, candidate is best, is_saying), name, arguments)

    def tools(self) -> dict[str, float]:
        """The probability of each tool, of those the patterns know."""
        found: dict[str, float] = {}
        for p, shape in self._shapes(None, {}, self._reading.read(self.state).shapes):
            found[shape.tool] = found.get(shape.tool, 0.0) + p
        return found

    def _answered(self, content: str, calls: Iterable[Mapping[str, Any]]) -> None:
        state = self.state
        sights = self._recaller.sights(state)
        state.said(content)
        self._waiting = []
        known = len(state.tools)
        for number, call in enumerate(calls):
            function = call.get("function") or {}
            name, arguments = function.get("name", ""), _arguments(function.get("arguments"))
            if number == 0:
                self._recaller.judge(sights, name, arguments)
                self._made = [*self._made[1 - _REMEMBERED :], (sights, name, arguments)]
            state.call(name, arguments)
            self._ids[call.get("id") or ""] = name
            if len(self._ids) > _REMEMBERED:
                del self._ids[next(iter(self._ids))]
            self._waiting.append(name)
        if len(state.tools) > known:
            state.wanted = self._mined.wanted[self._mined.tools.narrowed(self._read_for, state.tools)]

    def _caller(self, message: Mapping[str, Any]) -> str:
        name = message.get("name") or self._ids.pop(message.get("tool_call_id") or "", "")
        if not name:
            name = self._waiting[0] if self._waiting else ""
        if name in self._waiting:
            self._waiting.remove(name)
        return str(name)

    def _shapes(
        self, tool: str | None, given: Mapping[str, Any], scores: Floats, most: int | None = None
    ) -> list[tuple[float, Shape]]:
        """The likeliest shapes and their probabilities."""
        shapes = self._mined.patterns.shapes
        tools = self._mined.tools
        allowed = tools.shapes[tools.narrowed(self._offered, self.state.tools) if tool is None else tools.of([tool])]
        if given:
            fitting = [number for number in allowed.tolist() if given.keys() <= set(shapes[number].names)]
            allowed = np.array(fitting, np.int64)
        if not len(allowed):
            return []
        odds = scores[allowed]
        odds = np.exp(odds - odds.max())
        probabilities = odds / odds.sum()
        likely = choose.highest(probabilities, len(allowed) if most is None else most)
        best = zip(probabilities[likely].tolist(), allowed[likely].tolist(), strict=True)
        return [(p, shapes[number]) for p, number in best]

    def _promising(
        self, moment: Moment, tool: str | None, given: Mapping[str, Any], scores: Floats
    ) -> list[tuple[float, float, Shape, list[str]]]:
        """The likeliest shapes, those first of which most can be hoped: that it is this shape and that its arguments
        can be found."""
        found = []
        for probability, shape in self._shapes(tool, given, scores, _SHAPES):
            names = [name for name in shape.names if not self._is_inert(shape.tool, name)]
            found.append((probability * moment.reach(shape.tool, names, given), probability, shape, names))
        return sorted(found, key=first, reverse=True)

    def _recall(self, found: _Found, tool: str | None, given: Mapping[str, Any]) -> None:
        """Put what is remembered beside what was made up, for which the rest of the probability is left."""
        patterns = self._mined.patterns
        odds = self._recaller.odds(self._recaller.sights(self.state), patterns.trust, patterns.recalled)
        recalled: list[tuple[float, str, dict[str, Any]]] = []
        rest = 1.0 - sum(odds.values())
        for text, p in odds.items():
            name, arguments = parsed[text]
            if tool not in (None, name) or not (self._tools is None or name in self._tools):
                continue
            if all(key in arguments and arguments[key] == value for key, value in given.items()):
                vital = {key: value for key, value in arguments.items() if not self._is_inert(name, key)}
                recalled.append((p, name, vital))
        if not recalled:
            return
        whole = sum(p for p, _, _ in recalled) + rest
        for mark, (p, name, arguments) in found.items():
            found[mark] = (p * rest / whole, name, arguments)
        for p, name, arguments in recalled:
            names = sorted(arguments)
            values = [arguments[key] for key in names]
            mark = mark_of(name, names, [text_of(value) for value in values], values)
            known = found.get(mark)
            found[mark] = (p / whole + (known[0] if known else 0.0), name, arguments)

    def _then(self, tool: str, arguments: dict[str, Any], ahead: int) -> tuple[Candidate, ...]:
        if not ahead:
            return ()
        branch = self.fork()
        branch.assume(tool, arguments)
        return tuple(branch.candidates(ahead))

    def _is_inert(self, tool: str, name: str) -> bool:
        return name in self._inert or f"{tool}.{name}" in self._inert


def _light(argument: Argument) -> Argument:
    """An argument without the weights, which stand elsewhere."""
    return replace(argument, odds=Block(0), weights=b"")


def load(path: Path | str) -> Mined:
    """The patterns in a file that `sglang-paste mine` wrote. Raises ConfigError where it is foreign or damaged."""
    return Mined(patternfile.load(Path(path), Patterns))


def _least(found: _Found, k: int) -> float:
    """What a call must be more probable than to be among the best `k`."""
    return 0.0 if len(found) < k else sorted([p for p, _, _ in found.values()], reverse=True)[k - 1]


def _names(tools: Iterable[Tool]) -> frozenset[str]:
    named = (tool if isinstance(tool, str) else (tool.get("function") or tool).get("name") for tool in tools)
    return frozenset(name for name in named if isinstance(name, str))


def _arguments(given: Any) -> dict[str, Any]:
    if isinstance(given, str):
        try:
            given = msgspec.json.decode(given) if len(given) <= _MAX_ARGUMENTS_CHARS else {}
        except (msgspec.DecodeError, RecursionError, UnicodeError):
            return {}
    return given if isinstance(given, dict) else {}


def _plain(content: Any) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, Iterable) and not isinstance(content, Mapping):
        return "\n".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return ""
