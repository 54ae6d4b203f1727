"""Agents on one engine whose cache is too small for them: what a policy of retention makes of it, in simulated time."""

import heapq
import random
from array import array
from collections import OrderedDict, deque
from itertools import count
from typing import Any

import msgspec

from sglang_paste.calls import DEFAULT_TENANT, SessionId
from sglang_paste.events import CallReady, StopReason, TurnEnded, TurnStarted
from sglang_paste.schedule.book import Book
from sglang_paste.schedule.holds import Hold, Holds, Whose
from sglang_paste.schedule.keeper import Keeper
from sglang_paste.schedule.policies import POLICIES

# Median and ninth decile of a tool's run in seconds, and how often an agent calls it.
Tools = dict[str, tuple[float, float, int]]
MIXED: Tools = {
    "read": (0.3, 0.6, 8),
    "edit": (0.2, 0.4, 4),
    "bash": (1.7, 10.0, 5),
    "pytest": (7.0, 12.0, 3),
    "web": (6.0, 60.0, 2),
}
REGULAR: Tools = {"test": (5.0, 6.0, 1)}
# A token costs the same wherever it stands.
NO_KNEE = 1 << 40


class Agent(msgspec.Struct, eq=False):
    """One conversation, as long as it lasts. Its tokens are numbered so that no two share any."""

    whose: Whose
    turns: int
    base: int
    tokens: int
    random: random.Random


class World:
    """An engine that serves one turn at a time, at `rate` tokens of prefill a second. `policy` None is stock: the least
    recently used goes first."""

    def __init__(self, policy: str | None, tools: Tools, *, agents: int, pool: int, rate: float, seed: int) -> None:
        self._tools = tools
        self._rate = rate
        self._seed = seed
        self._names = count()
        self._pool = pool
        self._book = Book()
        self._holds = Holds()
        self._keeper = Keeper(self._book, POLICIES[policy](self._book, NO_KNEE)) if policy else None
        self._resident: OrderedDict[Whose, int] = OrderedDict()
        self._due: list[tuple[float, int, Agent]] = []
        self._order = count()
        self._now = 0.0
        self.asked = self.hit = 0
        for number in range(agents):
            self._arrive(2.0 * number)

    @property
    def hit_rate(self) -> float:
        """The share of the prompts' tokens that were cached."""
        return self.hit / self.asked

    def run(self, turns: int) -> "World":
        """Serve so many turns."""
        queue: deque[Agent] = deque()
        for _ in range(turns):
            if not queue:
                self._now = max(self._now, self._due[0][0])
            while self._due and self._due[0][0] <= self._now:
                at, _, agent = heapq.heappop(self._due)
                self._queue(agent, at)
                queue.append(agent)
            if self._keeper:
                self._holds.apply(self._keeper.decide(self._holds, self._now))
            self._serve(queue.popleft())
        return self

    def _arrive(self, at: float) -> None:
        name = next(self._names)
        chance = random.Random(f"{self._seed} {name}")
        turns = 1 + int(chance.expovariate(1 / 14))
        whose = Whose(DEFAULT_TENANT, SessionId(str(name)))
        agent = Agent(whose, turns, name << 32, chance.randint(1000, 6000), chance)
        heapq.heappush(self._due, (at, next(self._order), agent))

    def _queue(self, agent: Agent, at: float) -> None:
        if self._keeper:
            request = _request(agent)
            self._book.observe([TurnStarted(**_head(agent, at), prompt_tokens=agent.tokens, tools=())])
            wanted = self._holds.want(request, agent.whose, _prompt(agent))
            self._book.continued(request, agent.whose, [hold.request for hold in wanted], at)

    def _serve(self, agent: Agent) -> None:
        cached = self._resident.pop(agent.whose, 0)
        self.asked += agent.tokens
        self.hit += cached
        self._make_room(agent.tokens - cached)
        self._now += (agent.tokens - cached) / self._rate + 0.01
        self._resident[agent.whose] = agent.tokens
        chance = agent.random
        tool = chance.choices(list(self._tools), [weight for *_, weight in self._tools.values()])[0]
        p50, p90, _ = self._tools[tool]
        away = p50 * (p90 / p50) ** (chance.gauss(0, 1) / 1.28)
        grown = chance.randint(200, 1800)
        agent.turns -= 1
        if self._keeper:
            if agent.turns:
                self._book.observe([CallReady(**_head(agent, self._now), index=0, tool=tool, arguments="{}")])
            reason: StopReason = "tool_calls" if agent.turns else "stop"
            self._book.observe([TurnEnded(**_head(agent, self._now), reason=reason, calls=1)])
            self._holds.add(_request(agent), agent.whose, _prompt(agent), 1, agent.tokens)
            self._book.held(_request(agent), agent.whose, agent.tokens, self._now)
        agent.tokens += grown
        if agent.turns:
            heapq.heappush(self._due, (self._now + away, next(self._order), agent))
        else:
            self._arrive(self._now + chance.uniform(0, 10))

    def _make_room(self, tokens: int) -> None:
        lack = tokens - (self._pool - sum(self._resident.values()))
        held = {hold.whose: hold for hold in self._holds.in_order()} if self._keeper else {}
        loose = [whose for whose in self._resident if whose not in held]
        for whose in [*loose, *(whose for whose in held if whose in self._resident)]:
            if lack <= 0:
                return
            taken = min(lack, self._resident[whose])
            lack -= taken
            self._resident[whose] -= taken
            self._give_up(held.get(whose))

    def _give_up(self, hold: Hold | None) -> None:
        if hold is not None:
            self._holds.give_up([hold])


def _request(agent: Agent) -> str:
    return f"{agent.whose.session}.{agent.turns}"


def _prompt(agent: Agent) -> "array[int]":
    return array("q", range(agent.base, agent.base + agent.tokens // 64))


def _head(agent: Agent, at: float) -> dict[str, Any]:
    return {
        "tenant": agent.whose.tenant,
        "session": agent.whose.session,
        "request": _request(agent),
        "position": 0,
        "time": at,
    }
