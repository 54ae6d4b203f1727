"""What the recorded tools return at any moment, whoever asks and whatever for.

A session's world changes with each of its writes, when its tool ends. Until then a call returns what was recorded of it
in that state of the world; anything else takes a fitted time and returns a text that says so, and that no client may
ever see.
"""

from collections import Counter, defaultdict
from typing import Any

import msgspec

from bench.replay.durations import fitted
from bench.replay.effects import declared, key_of
from bench.replay.recording import Call, Place, Recording, places

WRONG = "[this call was never made here]"


class Executions(msgspec.Struct, frozen=True):
    """Runs that a recorded call could take its result from, runs that none could, and the tools of which a call was
    never executed, or a write more than once."""

    useful: int
    in_vain: int
    wrong: list[str]


class Execution(msgspec.Struct, frozen=True):
    """A tool's run: what it returns after how many seconds. `place` is the call and the state of the world it is in,
    None where that was not recorded."""

    content: str
    seconds: float
    place: Place | None


class World:
    """Sessions under way, by the name under which their tools are asked."""

    def __init__(self, scales: dict[str, float]) -> None:
        self._scales = scales
        self._lives: dict[str, _Life] = {}

    def begin(self, name: str, recording: Recording) -> None:
        """A session starts."""
        self._lives[name] = _Life(recording, self._scales.get(recording.domain, 1.0))

    def execute(self, name: str, tool: str, arguments: dict[str, Any]) -> Execution:
        """A run of a tool for a session begins. Who asks, and whether it was asked for, cannot be seen."""
        return self._lives[name].execute(tool, arguments)

    def ended(self, name: str, run: Execution) -> None:
        """A run is at its end: what it wrote is written."""
        self._lives[name].ended(run)

    def seconds(self, name: str, index: int) -> float:
        """What the session's call number `index` takes by itself."""
        life = self._lives[name]
        return life.scale * life.calls[index].seconds

    def executions(self, name: str) -> Executions:
        """How often the session's tools ran."""
        return self._lives[name].counted()

    @property
    def busy_s(self) -> float:
        """Seconds of all executions, added up."""
        return sum(life.busy for life in self._lives.values())


class _Life:
    def __init__(self, recording: Recording, scale: float) -> None:
        self.calls: list[Call] = recording.calls
        self.scale = scale
        self.busy = 0.0
        self._name = recording.name
        self._written: Counter[str] = Counter()
        self._runs: Counter[Place | None] = Counter()
        self._recorded: defaultdict[Place, list[Call]] = defaultdict(list)
        for place, call in zip(places(self.calls), self.calls, strict=True):
            self._recorded[place].append(call)

    def execute(self, tool: str, arguments: dict[str, Any]) -> Execution:
        key = key_of(tool, arguments)
        place = key, self._written[declared(tool).resource]
        recorded = self._recorded.get(place)
        if recorded:
            # The same call again takes what it took then.
            call = recorded[min(self._runs[place], len(recorded) - 1)]
            run = Execution(call.result, self.scale * call.seconds, place)
        else:
            run = Execution(f"{WRONG} {tool}", self.scale * fitted(declared(tool).kind, self._name, key), None)
        self._runs[run.place] += 1
        self.busy += run.seconds
        return run

    def ended(self, run: Execution) -> None:
        if run.place is not None and self._recorded[run.place][0].effect == "write":
            self._written[declared(self._recorded[run.place][0].tool).resource] += 1

    def counted(self) -> Executions:
        missing = [calls[0].tool for place, calls in self._recorded.items() if not self._runs[place]]
        writes = [
            calls[0].tool
            for place, calls in self._recorded.items()
            if calls[0].effect == "write" and self._runs[place] != len(calls)
        ]
        useful = sum(count for place, count in self._runs.items() if place is not None)
        return Executions(useful, self._runs[None], [*missing, *writes])
