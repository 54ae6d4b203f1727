"""What is played: the scenarios, each with room for everything and with a pool of 40 % of its working set; and agents
whose tests run for seconds, among requests of others that pass through such a pool meanwhile."""

import random
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from bench.turns import kvtrace
from bench.turns.script import Script, Step, sizes, write
from bench.turns.session import text

Pace = Literal["alternating", "interleaved", "burst"]
Pool = Literal["room", "pressure"]

# Tokens of the sessions of a scenario together, where the pool is too small for them, and of that pool.
WORKING_SET = 24_000
SMALL_POOL = WORKING_SET * 9 // 20  # written out, sessions are a tenth longer
LARGE_POOL = 160_000


class Scenario(msgspec.Struct, frozen=True):
    """Sessions that are played at a pace.

    alternating: one session, each turn on one side and then on the other; interleaved: all sessions at once, each comes
    back once its tool has run; burst: all sessions come back at the same moment.
    """

    name: str
    pool: Pool
    pace: Pace
    scripts: tuple[Script, ...]


class Size(msgspec.Struct, frozen=True):
    """How much of everything: a quick run, or one for tight intervals."""

    fixes: int
    bursts: int
    turns: int
    trace_turns: int
    longest: int


QUICK = Size(fixes=4, bursts=1, turns=35, trace_turns=6, longest=102_000)
FULL = Size(fixes=12, bursts=8, turns=35, trace_turns=16, longest=120_000)


def scenarios(size: Size, traces: Sequence[kvtrace.Trace]) -> list[Scenario]:
    """All of them, those with room first."""
    bursts = [_together(f"burst {number}", 8, 4, 2_500, WORKING_SET) for number in range(size.bursts)]
    traced = kvtrace.scripts(traces, size.trace_turns, WORKING_SET)
    # Like recorded ones: most of the prompt is there from the start, and half of the results are under 200 tokens.
    coding = _alone("coding", 0, size.turns, size.longest - 20_000, size.longest)
    testing = _together("tests", 3, 6, 2_000, 9_000, tools=("run_tests",))
    room = [
        *(Scenario("fix-6", "room", "alternating", (_alone("fix", n, 6, 3_000, 8_000),)) for n in range(size.fixes)),
        Scenario("coding-35", "room", "alternating", (coding,)),
        Scenario("agents-3x5", "room", "interleaved", _together("agents", 3, 5, 4_000, WORKING_SET)),
        *(Scenario("burst-8", "room", "burst", burst) for burst in bursts),
        Scenario("kvtrace", "room", "interleaved", traced),
    ]
    pressure = [
        Scenario("fix-6", "pressure", "interleaved", _together("fix", 5, 6, 2_500, WORKING_SET)),
        Scenario("coding-35", "pressure", "interleaved", _together("coding", 3, size.turns, 4_000, WORKING_SET)),
        Scenario("agents-3x5", "pressure", "interleaved", _together("agents", 3, 5, 4_000, WORKING_SET)),
        *(Scenario("burst-8", "pressure", "burst", burst) for burst in bursts),
        Scenario("kvtrace", "pressure", "interleaved", traced),
        Scenario("strangers", "pressure", "interleaved", (*testing, *_strangers(35, 0.4, 2_500))),
    ]
    return room + pressure


def _alone(name: str, number: int, turns: int, first: int, last: int, **given: Any) -> Script:
    seed = f"{name} {number}"
    return write(seed, sizes(seed, turns, last - first), first=first, **given)


def _together(name: str, count: int, turns: int, first: int, all_of_them: int, **given: Any) -> tuple[Script, ...]:
    """Sessions that share half of their first prompts, and end at so many tokens together."""
    shared = first // 2
    system = text(random.Random(name), shared)
    last = shared + (all_of_them - shared) // count
    return tuple(_alone(name, number, turns, first, last, system=system, **given) for number in range(count))


def _strangers(count: int, seconds: float, tokens: int) -> tuple[Script, ...]:
    """Single requests of so many tokens that share nothing but the tools, so many seconds one after the other."""
    scripts = (write(f"stranger {number}", (), first=tokens) for number in range(count))
    return tuple(
        Script(script.system, (Step(step.arrives, step.answer, number * seconds),))
        for number, script in enumerate(scripts)
        for step in script.steps
    )
