"""Calls remembered as they were made, by what came before them: for tasks that recur.

A recollection belongs to one tenant. It holds calls verbatim, so it is never merged with another tenant's; what looks
like a secret is not remembered.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any

import msgspec

from sglang_paste.predict.levels import Level
from sglang_paste.predict.memo import Memo
from sglang_paste.predict.secret import holds_secret
from sglang_paste.predict.state import LAST, SAID, TASK, USER, State, as_json

MAX_CONTEXTS = 200_000
MAX_CALLS = 6
MAX_CHARS = 4096
MAX_TASK_CHARS = 16_384
_RESULT_CHARS = 300
_LITTLE = 0.02
_KINDS = {kind: at for at, kind in enumerate(("task", "full", "call", "after", "step", "same", "next", "loose"), 1)}
_ROLES = {"system": 1, USER: 2, SAID: 3, "tool": 4}
_ODD, _MASK = 0x1E3779B97F4A7C15, 2**63 - 1
Sight = tuple[str, int]
"""A kind of context, and the number that stands for what was there."""
Followed = tuple[tuple[int, int], ...]
"""The numbers of calls, and how often each followed, the most frequent first."""
Recalled = tuple[str, list[tuple[str, int]]]
"""The grade of a sight that is remembered, and the calls that followed, with how often."""
Trust = Mapping[str, float]
"""How often the call that followed most was right, by the grade of what is remembered, and by grade and tool."""


class Recollection(msgspec.Struct):
    """For each context, the calls that followed it and how often; calls as JSON, by number."""

    calls: list[str]
    seen: list[tuple[int, Followed]]


class Memory:
    """A recollection at work: it takes in calls as they are made, and says which followed what is seen now."""

    def __init__(self, recollection: Recollection | None = None) -> None:
        self._calls = dict(enumerate(recollection.calls)) if recollection else {}
        self._seen = dict(recollection.seen) if recollection else {}
        self._numbers = {call: number for number, call in self._calls.items()}
        self._next = len(self._calls)
        self._uses = Counter(number for followed in self._seen.values() for number, _ in followed)

    def __len__(self) -> int:
        """How many calls are remembered."""
        return len(self._calls)

    def recollection(self) -> Recollection:
        """What is remembered, as plain data."""
        places = {number: place for place, number in enumerate(self._calls)}
        seen = [
            (sight, tuple([(places[number], count) for number, count in followed]))
            for sight, followed in sorted(self._seen.items())
        ]
        return Recollection(list(self._calls.values()), seen)

    def add(self, sights: list[Sight], tool: str, arguments: dict[str, Any]) -> None:
        """Remember that this call followed these sights."""
        text = call_text(tool, arguments)
        if len(text) > MAX_CHARS or holds_secret(arguments):
            return
        seen = self._seen
        number = self._numbers.get(text)
        if number is None:
            number = self._numbers[text] = self._next
            self._calls[number] = text
            self._next += 1
        self._uses[number] += 1
        for _, sight in sights:
            followed = dict(seen.pop(sight, ()))
            if number not in followed:
                self._uses[number] += 1
            followed[number] = followed.get(number, 0) + 1
            ranked = sorted(followed.items(), key=lambda item: (-item[1], item[0]))
            seen[sight] = tuple(ranked[:MAX_CALLS])
            self._let_go(ranked[MAX_CALLS:])
            if len(seen) > MAX_CONTEXTS:
                self._let_go(seen.pop(next(iter(seen))))
        self._let_go(((number, 0),))

    def _let_go(self, followed: Iterable[tuple[int, int]]) -> None:
        """Calls that a sight brings back no longer: those that none does are forgotten."""
        for number, _ in followed:
            self._uses[number] -= 1
            if not self._uses[number]:
                del self._uses[number], self._numbers[self._calls.pop(number)]

    def knows(self, sight: int) -> bool:
        """Whether anything followed it."""
        return sight in self._seen

    def followed(self, sight: int) -> list[tuple[str, int]]:
        """The calls that followed, and how often, the most frequent first."""
        found = self._seen.get(sight, ())
        return [(self._calls[number], count) for number, count in found]


class Recaller:
    """What one session brings back of earlier ones, and how well that went so far."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.known = False
        self._task = ""
        self._task_number = 0
        self._hits = 0
        self._misses = 0
        self._seen: tuple[tuple[int, int], list[Sight]] | None = None

    def fork(self) -> "Recaller":
        """A copy that goes its own way."""
        other = Recaller(self.memory)
        vars(other).update(vars(self))
        return other

    @property
    def standing(self) -> str:
        """Whether the task is known, and how often what was recalled was right in this session."""
        return f"{self.known:d}{min(self._hits, 2)}{min(self._misses, 2)}"

    def sights(self, state: State) -> list[Sight]:
        """What is seen now, the most telling first."""
        now = (state.turn, state.count)
        if self._seen is None or self._seen[0] != now:
            self._seen = (now, self._look(state))
        return self._seen[1]

    def _look(self, state: State) -> list[Sight]:
        text = state.texts.get(TASK, "")
        if text is not self._task:
            self._task = text
            self._task_number = _number(" ".join(text[:MAX_TASK_CHARS].lower().split()))
            self.known = self.memory.knows(_mixed("task", self._task_number))
        task, count, role = self._task_number, state.count, _ROLES.get(state.role, 0)
        spoken = _number(state.texts.get(USER, "")[:_RESULT_CHARS]) if state.role == USER else 0
        result = _number(state.texts.get(LAST, "")[:_RESULT_CHARS])
        last = state.calls[-1] if state.calls else None
        called = _number(call_text(last.tool, last.texts)[:MAX_CHARS]) if last else 0
        found = [
            ("full", _mixed("full", task, called, result, spoken)),
            ("call", _mixed("call", task, called, role, count)),
            ("after", _mixed("after", task, called, role)),
            ("step", _mixed("step", task, count)),
        ]
        if last is not None:
            found.append(("same", _mixed("same", called, result, role)))
            found.append(("next", _mixed("next", called, role)))
            found.append(("loose", _mixed("loose", task, _number(f"{last.tool}\0{last.outcome}"), role)))
        found.append(("task", _mixed("task", task)))
        return found

    def recalled(self, sights: list[Sight]) -> list[Recalled]:
        """For each sight that is remembered its grade, and the calls that followed."""
        found = []
        for kind, sight in sights:
            followed = self.memory.followed(sight)
            if followed:
                total = sum([count for _, count in followed])
                share = int(3.99 * followed[0][1] / total)
                found.append((f"{kind} {self.standing} {min(total.bit_length(), 3)} {share}", followed))
        return found

    def odds(self, sights: list[Sight], trust: Trust, levels: Mapping[str, Level] | None = None) -> dict[str, float]:
        """The probability of each call that is recalled, the likeliest first, at most one in all; as others like them
        turned out, where `levels` say that."""
        found = raw_odds(self.recalled(sights), trust)
        if not levels:
            return found
        real = {}
        left = 1.0
        for place, (call, p) in enumerate(found.items()):
            level = levels.get(self.level_key(call)) or levels.get("")
            real[call] = p if level is None else min(level.real(p, not place), left)
            left -= real[call]
        return real

    def level_key(self, call: str) -> str:
        """What the levels of recalled calls are told apart by: whether the task is known, and the tool."""
        return f"{self.known:d} {parsed[call][0]}"

    def judge(self, sights: list[Sight], tool: str, arguments: dict[str, Any]) -> None:
        """Note whether the call made now is the one that was recalled first."""
        for _, sight in sights:
            followed = self.memory.followed(sight)
            if followed:
                if followed[0][0] == call_text(tool, arguments):
                    self._hits += 1
                else:
                    self._misses += 1
                return


def raw_odds(recalled: Iterable[Recalled], trust: Trust) -> dict[str, float]:
    """The probability of each call by the most trusted sight that brings it back, the likeliest first, one in all at
    most; a little too high, as the highest of several estimates is."""
    found: dict[str, float] = {}
    for grade, followed in recalled:
        top = trust.get(of_tool(grade, followed[0][0]), trust.get(grade, _LITTLE))
        most = followed[0][1]
        for call, count in followed:
            p = top * count / most
            if p > found.get(call, _LITTLE):
                found[call] = p
    left = 1.0
    ranked = {}
    for call in sorted(found, key=lambda call: (-found[call], call)):
        ranked[call] = found[call] * left
        left -= ranked[call]
    return ranked


def of_tool(grade: str, call: str) -> str:
    """The grade, told apart by the tool of a call."""
    return f"{grade} {parsed[call][0]}"


parsed: Memo[str, tuple[str, Mapping[str, Any]]] = Memo(lambda call: tuple(json.loads(call)), 4096)
"""The tool and the arguments of a call's text, which nobody may change."""


def call_text(tool: str, arguments: dict[str, Any]) -> str:
    """One text for a call."""
    return as_json([tool, arguments])


def _number(text: str) -> int:
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=7).digest())


def _mixed(kind: str, *numbers: int) -> int:
    """One number under 2^63 for a kind and numbers, the same in every process."""
    mixed = _KINDS[kind]
    for number in numbers:
        mixed = ((mixed ^ number) * _ODD) & _MASK
        mixed ^= mixed >> 31
    return mixed
