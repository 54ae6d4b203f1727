"""From the rows of a real run to a workload: the same sessions by the same agents, and what was foreseen of them.

What the predictors offered is an input: which calls were foreseen and how early, and how much ran for nothing. What the
foreseen calls gain, whether they are run at all, and what stays in the cache, is the model's to say.
"""

import random
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

import msgspec

from bench.replay.effects import declared
from bench.replay.records import Block, Call, Effect, Task
from bench.replay.records import Turn as Played
from bench.replay.simulate.workload import Guess, Moment, Session, Turn, Use
from sglang_paste.config import Policy

HITS = ("reused", "joined", "promoted")
# What the odds of a foreseen call are taken for where the rows do not say.
SURE = 0.9
_ELSE = " that "


class Habit(msgspec.Struct, frozen=True, kw_only=True):
    """Guesses that were wrong, for each call that was made: how many, and the odds and seconds of some of them."""

    per_call: float = 0.0
    samples: tuple[tuple[float, float], ...] = ()


def queues(tasks: Sequence[Task], block: Block, seed: int = 0) -> list[list[Session]]:
    """The sessions of each agent, in the order in which it played them."""
    habit = _habit(tasks, block)
    chance = random.Random(seed)
    lost = _lost(tasks)
    shared = _shared(tasks)
    closed = block.place.setting.rate is None
    found: dict[tuple[int, str], list[Session]] = defaultdict(list)
    for task in sorted(tasks, key=lambda task: task.began_at):
        session = _session(task, habit, chance, lost, shared[task.source])
        if closed:
            found[task.agent, ""].append(session)
        else:
            found[0, task.session].append(msgspec.structs.replace(session, begins=task.began_at))
    return list(found.values())


def policies(tasks: Sequence[Task], concurrency: int = 64) -> dict[str, Policy]:
    """Tools as the replay declares them."""
    effects = {in_model(call.tool, call.effect): call.effect for task in tasks for call in task.calls}
    return {tool: declare(tool, effect, concurrency) for tool, effect in effects.items()}


def in_model(tool: str, effect: Effect) -> str:
    """A tool's name in the model, where a tool does the same in all of its calls: those of a shell that only read are
    calls of another."""
    return tool if effect == declared(tool).effect else f"{tool}{_ELSE}{effect}"


def declare(tool: str, effect: Effect, concurrency: int) -> Policy:
    """A tool of the model that reads or writes what is known of its name, of the session's own."""
    resource = declared(tool.partition(_ELSE)[0]).resource
    touched = (resource,) if resource else ()
    return Policy(
        effect=effect,
        reads=() if effect == "pure" else touched,
        writes=touched if effect == "write" else (),
        observes="local",
        speculate=effect != "write",
        concurrency=concurrency,
    )


def _session(task: Task, habit: Habit, chance: random.Random, lost: int, shared: int) -> Session:
    turns = []
    for number, turn in enumerate(task.turns):
        before = task.turns[number - 1] if number else None
        uses = tuple(_use(call, task.turns, number, habit, chance) for call in turn.calls)
        known = before.prompt + before.output - lost if before else shared
        turns.append(
            Turn(
                prompt=turn.prompt,
                output=max(turn.output, 1),
                steps=turn.steps,
                fresh=max(turn.prompt - known, 1),
                uses=uses,
            )
        )
    return Session(
        id=task.session,
        source=task.source,
        domain=task.domain,
        recurring=task.recurring,
        turns=tuple(turns),
        shared=min(shared, turns[0].prompt - 1),
    )


def _use(call: Call, turns: Sequence[Played], number: int, habit: Habit, chance: random.Random) -> Use:
    guesses = [foreseen(call, turns, number)] if call.outcome in HITS else []
    for _ in range(_count(habit.per_call, chance) if habit.samples else 0):
        probability, seconds = chance.choice(habit.samples)
        guesses.append(Guess(moment="turn", probability=probability, right=False, seconds=seconds))
    return Use(
        tool=in_model(call.tool, call.effect), seconds=call.duration_s, effect=call.effect, guesses=tuple(guesses)
    )


def foreseen(call: Call, turns: Sequence[Played], number: int) -> Guess:
    """When a call of a turn was foreseen that a client did not wait for in full. What was joined had a lead: it came as
    the call was being written, or at the start of the turn that is nearest. What was reused had at least the tool's
    time."""
    turn, lead = turns[number], call.duration_s - call.latency_s
    if call.outcome != "reused" and lead <= turn.generation_s:
        tokens = round(max(lead, 0.0) / max(turn.generation_s, 1e-9) * turn.output)
        return Guess(moment="stream", probability=SURE, right=True, seconds=call.duration_s, tokens=tokens)
    leads = [turn.ttft_s + turn.generation_s]
    for before in reversed(turns[:number]):
        leads.append(leads[-1] + before.ttft_s + before.generation_s + before.tools_s)
    enough = [at for at, each in enumerate(leads) if each >= lead] or [number]
    nearest = min(range(len(leads)), key=lambda at: abs(leads[at] - lead))
    ahead = enough[0] if call.outcome == "reused" else nearest
    moment: Moment = "ahead" if ahead else "turn"
    return Guess(moment=moment, probability=SURE, right=True, seconds=call.duration_s, turns=ahead)


def _habit(tasks: Sequence[Task], block: Block) -> Habit:
    calls = sum(len(task.calls) for task in tasks)
    wrong = [each for each in block.early if each.end not in ("claimed", "failed")]
    if not calls or not wrong:
        return Habit()
    return Habit(
        per_call=len(wrong) / calls,
        samples=tuple((each.probability or SURE, max(each.run_s, 1e-3)) for each in wrong[:4096]),
    )


def _lost(tasks: Sequence[Task]) -> int:
    """Tokens of a turn that the next does not find, where nothing was evicted: what is written otherwise when the
    answer is part of the prompt."""
    gaps = [
        before.prompt + before.output - after.cached
        for task in tasks
        for before, after in pairwise(task.turns)
        if after.cached > before.prompt / 2
    ]
    return max(round(median(gaps)), 0) if gaps else 0


def _shared(tasks: Sequence[Task]) -> dict[str, int]:
    """Tokens that all sessions of a source begin with: what the first turn of most finds."""
    found: dict[str, list[int]] = defaultdict(list)
    for task in tasks:
        found[task.source].append(task.turns[0].cached)
    return {source: round(median(cached)) for source, cached in found.items()}


def _count(mean: float, chance: random.Random) -> int:
    whole = int(mean)
    return whole + (chance.random() < mean - whole)
