"""A made-up engine and text for the gate: what a step takes and how often drafts are right is known exactly."""

import random
from collections.abc import Callable
from typing import NamedTuple

from sglang_paste.draft.cost import Step
from sglang_paste.draft.gate import Demand, Gate, Offer, Plan
from sglang_paste.draft.hints import Source

LONGEST = 31
Planner = Callable[[Gate, list[Demand], int], Plan]


class World(NamedTuple):
    """An engine and its requests. A drafted token is right with `odds`; seconds are per step, per row beside each
    request's first, and for verifying at all."""

    batch: int
    odds: float
    plain: float = 0.040
    row: float = 0.002
    verify: float = 0.004
    noise: float = 0.05
    lookup: float = 0.0

    def seconds(self, width: int) -> float:
        return self.plain + self.row * self.batch * (width - 1) + self.verify * (width > 1)

    def right(self, width: int) -> float:
        """Tokens of a step for one request, in the mean."""
        return sum(self.odds**place for place in range(width))

    def best_rate(self) -> float:
        """Tokens per second at the best of all widths."""
        return max(self.batch * self.right(width) / self.seconds(width) for width in range(1, LONGEST + 2))


def gated(gate: Gate, demands: list[Demand], context: int) -> Plan:
    return gate.plan(demands, context)


def always(gate: Gate, demands: list[Demand], context: int) -> Plan:
    """A gate that is never shut."""
    return Plan(LONGEST + 1, [demand.offers[0] for demand in demands])


def never(gate: Gate, demands: list[Demand], context: int) -> Plan:
    """A gate that never opens."""
    return Plan(1, [None] * len(demands))


def rate(world: World, steps: int, planner: Planner, seed: int = 1, warm: int = 0) -> float:
    """Tokens per second over `steps` steps after the first `warm`."""
    draw = random.Random(seed)
    gate, tokens, spent = Gate(LONGEST), 0, 0.0
    for number in range(warm + steps):
        looks = gate.looks_up()
        draft = Offer(Source.HISTORY, 5, range(LONGEST)) if looks else None
        demands = [Demand(str(row), [draft] if draft else [], LONGEST) for row in range(world.batch)]
        plan = planner(gate, demands, 1000) if looks else Plan(1, [None] * world.batch)
        lookup = world.lookup * looks
        took = world.seconds(plan.width) * draw.uniform(1 - world.noise, 1 + world.noise)
        made = 0
        for demand in demands:
            right = 0
            while right < plan.width - 1 and draw.random() < world.odds:
                right += 1
            last = right if right < plan.width - 1 or draw.random() >= world.odds else -1
            generated = [*range(right), right if last == -1 else -1]
            if plan.width == 1:
                generated = [0 if draw.random() < world.odds else -1]
            gate.settle(demand, generated)
            made += right + 1
        gate.observe(Step(world.batch, plan.width, 1000), took, lookup, 0.0)
        if number >= warm:
            tokens, spent = tokens + made, spent + took + lookup
    return tokens / spent
