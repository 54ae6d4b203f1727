"""Sessions for fleets: their sizes, and what is foreseen of their calls."""

import math
import random
from collections.abc import Iterable, Sequence

import msgspec

from bench.replay.recording import Recording
from bench.replay.records import Block, Effect, Row, Run, Task
from bench.replay.simulate.observe import HITS, declare, foreseen, in_model
from bench.replay.simulate.workload import Guess, Moment, Session, Turn, Use
from sglang_paste.config import Policy

LONGEST_S = 120.0
LONGEST_TOKENS = 100_000
SHARED = 2_000
# Median and 90th percentile in seconds, and how often: a shell, the web, files (TraceLab, 433,000 calls of agents).
TOOLS: dict[str, tuple[float, float, float]] = {
    "shell": (0.85, 22.0, 0.6),
    "web": (6.0, 60.0, 0.15),
    "file": (0.05, 0.3, 0.25),
}
WRITES = {"shell": 0.4, "web": 0.0, "file": 0.4}


class Foresight(msgspec.Struct, frozen=True, kw_only=True):
    """Of calls that may run early: the share that is foreseen rightly at each moment, how many wrong guesses come with
    a call, and the odds that these have. `accept` is the tokens of a decode step by run."""

    right: dict[Moment, float]
    wrong: float
    odds: tuple[float, ...]
    accept: dict[Run, float]


# Where no rows say it: what PASTE reports of patterns (a fifth to a half of the next calls), what is read as it is
# being written, and prompt lookup.
ASSUMED = Foresight(
    right={"turn": 0.3, "stream": 0.65}, wrong=0.6, odds=(0.3, 0.4, 0.5), accept={"A2": 1.5, "C": 1.7, "F": 1.8}
)


def measured(rows: Sequence[Row]) -> Foresight | None:
    """What the rows of F say; None without them. Drafts of runs that were not played are as assumed."""
    tasks = [row for row in rows if isinstance(row, Task) and row.place.run == "F"]
    early = [each for row in rows if isinstance(row, Block) and row.place.run == "F" for each in row.early]
    calls = [call for task in tasks for call in task.calls if call.effect != "write"]
    if not calls:
        return None
    moments = [
        foreseen(call, task.turns, number).moment
        for task in tasks
        for number, turn in enumerate(task.turns)
        for call in turn.calls
        if call.outcome in HITS
    ]
    wrong = [each.probability or 0.3 for each in early if each.end not in ("claimed", "failed")]
    kinds: tuple[Moment, ...] = ("ahead", "turn", "stream")
    return Foresight(
        right={kind: moments.count(kind) / len(calls) for kind in kinds},
        wrong=len(wrong) / len(calls),
        odds=tuple(wrong[:1024]) or (0.3,),
        accept={run: _accept(rows, run) or assumed for run, assumed in ASSUMED.accept.items()},
    )


def made_up(count: int, seed: int = 0) -> list[Session]:
    """Sessions as agents on code and the web have them: prompts from 4 to 20 thousand tokens of which 4,000 are
    everybody's, 6 to 30 turns, of which each adds 214 tokens and reads 875 on average (TraceLab)."""
    return [_made_up(f"made up {number}", random.Random(f"{seed}/{number}")) for number in range(count)]


def recorded(recordings: Iterable[Recording]) -> list[Session]:
    """Recorded sessions at their full size, with four characters to a token and 2,000 tokens of instructions and tools
    that all of a source share."""
    return [_recorded(each) for each in recordings if each.answers]


def prepared(sessions: Sequence[Session], run: Run, foresight: Foresight, seed: int = 0) -> list[Session]:
    """The sessions with what is foreseen of their calls, and with as many decode steps as the run's drafts leave."""
    accept = foresight.accept.get(run, 1.0)
    return [_prepared(each, accept, foresight, random.Random(f"{seed}/{each.id}")) for each in sessions]


def policies(sessions: Iterable[Session]) -> dict[str, Policy]:
    """The tools of sessions: what reads may run early, what writes ends what read the same before."""
    uses = {use.tool: use.effect for session in sessions for turn in session.turns for use in turn.uses}
    return {tool: declare(tool, effect, concurrency=100_000) for tool, effect in uses.items()}


def _made_up(name: str, chance: random.Random) -> Session:
    prompt = round(min(_lognormal(chance, 8_000, 20_000), 40_000))
    turns = []
    last = chance.randint(6, 30)
    for number in range(last):
        output = max(round(min(_lognormal(chance, 150, 450), 2_000)), 2)
        uses = () if number == last - 1 else (_made_up_use(chance),)
        turns.append(Turn(prompt=prompt, output=output, steps=output - 1, fresh=8, uses=uses))
        prompt += output + round(min(_lognormal(chance, 450, 2_000), 8_000))
        if prompt > LONGEST_TOKENS:
            break
    return Session(id=name, domain="made up", turns=tuple(turns), shared=4_000)


def _recorded(recording: Recording) -> Session:
    prompt, turns = SHARED, []
    for answer in recording.answers:
        prompt += sum(_tokens(str(message["content"])) for message in answer.arrives)
        said = _tokens(answer.content) + sum(_tokens(str(call.arguments)) + 10 for call in answer.calls)
        uses = tuple(
            Use(tool=in_model(call.tool, call.effect), seconds=call.seconds, effect=call.effect)
            for call in answer.calls
        )
        turns.append(Turn(prompt=prompt, output=max(said, 2), steps=max(said, 2) - 1, fresh=8, uses=uses))
        prompt += said + sum(_tokens(call.result) for call in answer.calls)
        if prompt > LONGEST_TOKENS:
            break
    return Session(
        id=recording.name, domain=recording.domain, source=recording.source, turns=tuple(turns), shared=SHARED
    )


def _tokens(text: str) -> int:
    return len(text) // 4 + 1


def _made_up_use(chance: random.Random) -> Use:
    tool = chance.choices(list(TOOLS), [share for _, _, share in TOOLS.values()])[0]
    median, high, _ = TOOLS[tool]
    effect: Effect = "write" if chance.random() < WRITES[tool] else "read"
    seconds = min(_lognormal(chance, median, high), LONGEST_S)
    return Use(tool=f"{tool} {effect}", seconds=seconds, effect=effect)


def _prepared(session: Session, accept: float, foresight: Foresight, chance: random.Random) -> Session:
    turns = []
    for turn in session.turns:
        uses = tuple(msgspec.structs.replace(use, guesses=_guesses(use, foresight, chance)) for use in turn.uses)
        turns.append(msgspec.structs.replace(turn, uses=uses, steps=max(round((turn.output - 1) / accept), 1)))
    return msgspec.structs.replace(session, turns=tuple(turns))


def _guesses(use: Use, foresight: Foresight, chance: random.Random) -> tuple[Guess, ...]:
    if use.effect == "write":
        return ()
    found = []
    draw = chance.random()
    for moment, share in foresight.right.items():
        if 0 <= draw < share:
            odds = 0.97 if moment == "stream" else 0.6
            found.append(Guess(moment=moment, probability=odds, right=True, seconds=use.seconds, tokens=6))
        draw -= share
    for _ in range(int(foresight.wrong) + (chance.random() < foresight.wrong % 1)):
        odds = chance.choice(foresight.odds)
        found.append(Guess(moment="turn", probability=odds, right=False, seconds=use.seconds))
    return tuple(found)


def _accept(rows: Sequence[Row], run: Run) -> float | None:
    """Tokens of a decode step; None where the run was not played."""
    turns = [turn for row in rows if isinstance(row, Task) and row.place.run == run for turn in row.turns]
    steps = sum(turn.steps for turn in turns)
    return max(sum(turn.output - 1 for turn in turns) / steps, 1.0) if steps else None


def _lognormal(chance: random.Random, median: float, high: float) -> float:
    """A draw from the distribution with this median and 90th percentile."""
    return median * math.exp(chance.gauss(0.0, math.log(high / median) / 1.2816))
