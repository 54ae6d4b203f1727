"""What the recorded tools return at any moment, whoever asks and whatever for.

A session's world changes with each of its writes. An execution gives a recorded result only where it is exactly a call
that the session is still to make before it writes what that call depends on; anything else takes a fitted time and
returns a text that says so, and that no client may ever see.
"""

from collections import Counter, defaultdict
from typing import Any

import msgspec

from bench.replay.durations import fitted
from bench.replay.effects import declared
from bench.replay.recording import Call, Recording
from sglang_paste.calls import call_key

WRONG = "[this call was never made here]"


class Execution(msgspec.Struct, frozen=True):
    """A tool's run: what it returns after how many seconds; `index` is the call it is, None where it is none."""

    content: str
    seconds: float
    index: int | None


class World:
    """Sessions under way, by the name under which their tools are asked."""

    def __init__(self, scales: dict[str, float]) -> None:
        self._scales = scales
        self._lives: dict[str, _Life] = {}

    def begin(self, name: str, recording: Recording) -> None:
        """A session starts."""
        self._lives[name] = _Life(recording, self._scales.get(recording.domain, 1.0))

    def answered(self, name: str, index: int) -> None:
        """The session's client has the result of its call number `index`."""
        life = self._lives[name]
        life.answered.add(index)
        if life.calls[index].effect == "write":
            life.writes[declared(life.calls[index].tool).resource] += 1

    def execute(self, name: str, tool: str, arguments: dict[str, Any]) -> Execution:
        """A run of a tool for a session begins. Who asks, and whether it was asked for, cannot be seen."""
        return self._lives[name].execute(tool, arguments)

    def seconds(self, name: str, index: int) -> float:
        """What the session's call number `index` takes by itself."""
        life = self._lives[name]
        return life.scale * life.calls[index].seconds

    def executions(self, name: str) -> Counter[int | None]:
        """How often each call of the session was executed; None: what is none of its calls, or came in vain."""
        return self._lives[name].executions

    @property
    def busy_s(self) -> float:
        """Seconds of all executions, added up."""
        return sum(life.busy for life in self._lives.values())


class _Life:
    def __init__(self, recording: Recording, scale: float) -> None:
        self.calls: list[Call] = recording.calls
        self.scale = scale
        self.answered: set[int] = set()
        self.writes: Counter[str] = Counter()
        self.busy = 0.0
        self.executions: Counter[int | None] = Counter()
        self._name = recording.name
        self._places: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        writes: Counter[str] = Counter()
        for index, call in enumerate(self.calls):
            resource = declared(call.tool).resource
            self._places[call_key(call.tool, call.arguments)].append((index, writes[resource]))
            writes[resource] += call.effect == "write"

    def execute(self, tool: str, arguments: dict[str, Any]) -> Execution:
        key = call_key(tool, arguments)
        open_ones = [place for place in self._places[key] if place[0] not in self.answered]
        written = self.writes[declared(tool).resource]
        index = next((index for index, writes in open_ones if writes == written), None)
        self.executions[index] += 1
        if index is None:
            seconds = self.scale * fitted(declared(tool).kind, self._name, key)
            content = f"{WRONG} {tool}"
        else:
            seconds, content = self.scale * self.calls[index].seconds, self.calls[index].result
        self.busy += seconds
        return Execution(content, seconds, index)
