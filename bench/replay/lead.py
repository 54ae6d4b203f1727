"""`python -m bench.replay.lead --sessions PATH…`: what early runs can take off the tools' time, by how likely a
call has to be for one, and by what a wasted second costs.

Nothing is served: half of the tasks are mined, of the other half sessions are gone through one at a time, with the time
that the model would take for what it says, without drafts, and tools scaled to half of all time. Only the first call of
a turn is foreseen, at three moments: as the turn begins, as the call opens, as its tool is named.
"""

import argparse
import random
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from bench.replay.effects import effect_of, key_of
from bench.replay.plan import ANSWER_S, CHARACTER_S, first_scales
from bench.replay.recording import Answer, Recording, Wanted, choose, read, record
from bench.replay.servers import LIMITS
from sglang_paste.mine.learn import Miner
from sglang_paste.mine.split import Split
from sglang_paste.predict.mined import Mined, MinedSession
from sglang_paste.speculate.planner import price, utility

NAMED_CHARS, FRAME_CHARS = 15, 40
OFFERED = 5
THRESHOLDS, LOADS = (0.2, 0.1, 0.05, 0.0), (1.0, 0.5, 0.0)


class Guess(NamedTuple):
    """A call that may run early, its probability, and whether it is the one that was made."""

    key: str
    probability: float
    is_right: bool


class Chance(NamedTuple):
    """A call's own seconds, and what was guessed so many seconds before it was asked for."""

    seconds: float
    moments: list[tuple[float, list[Guess]]]


class Gain(NamedTuple):
    """The share of the tools' time that is taken off, and early runs for nothing by useful ones."""

    saved: float
    waste: float


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.replay.lead", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--sessions", type=Path, nargs="+", required=True)
    parser.add_argument("--per-source", type=int, default=40, help="sessions to go through (default: %(default)s)")
    arguments = parser.parse_args()
    sessions = read(arguments.sessions)
    split, miner = Split(sessions, 2), Miner()
    for session in split.train(sessions, 1):
        miner.add(session)
    mined = Mined(miner.finish())
    tested = defaultdict(list)
    for session in split.test(sessions, 1):
        tested[session.source].append(session)
    print(
        f"{'source':20}{'calls':>7}  least p, price: share of the tools' time taken off, % (wasted runs a useful one)"
    )
    for source, found in sorted(tested.items()):
        random.Random(source).shuffle(found)
        played = choose(map(record, found[: 10 * arguments.per_source]), Wanted(arguments.per_source))
        scale = next(iter(first_scales(played).values()), 1.0)
        chances = [chance for each in played for chance in chances_of(mined, each, scale)]
        for load in LOADS if chances else ():
            cost = price(LIMITS, load)
            cells = [(least, gain(chances, least, cost)) for least in THRESHOLDS]
            told = "".join(f"  {least:4}: {100 * got.saved:5.1f} ({got.waste:4.1f})" for least, got in cells)
            print(f"{source:20}{len(chances):7}  price {cost:.2f}{told}", flush=True)
    return 0


def chances_of(mined: Mined, each: Recording, scale: float) -> Iterator[Chance]:
    """What was guessed of each call of a session; of others than a turn's first nothing."""
    session = mined.session()
    for number, answer in enumerate(each.answers):
        for message in answer.arrives:
            session.observe(message)
        for place, call in enumerate(answer.calls):
            yield Chance(call.seconds * scale, [] if place else _moments(session, answer))
        made = [
            {"id": f"{number} {place}", "function": {"name": call.tool, "arguments": call.arguments}}
            for place, call in enumerate(answer.calls)
        ]
        session.observe({"role": "assistant", "content": answer.content, "tool_calls": made})
        for called, call in zip(made, answer.calls, strict=True):
            session.observe({"role": "tool", "tool_call_id": called["id"], "content": call.result})


def _moments(session: MinedSession, answer: Answer) -> list[tuple[float, list[Guess]]]:
    call = answer.calls[0]
    written = len(str(call.arguments))
    right = key_of(call.tool, call.arguments)

    def guessed(tool: str | None = None) -> list[Guess]:
        return [
            Guess(key := key_of(found.tool, found.arguments), found.probability, key == right)
            for found in session.candidates(OFFERED, tool)
            if effect_of(found.tool, found.arguments) != "write"
        ]

    moments = [(ANSWER_S + CHARACTER_S * (len(answer.content) + FRAME_CHARS + written), guessed())]
    if answer.content:
        session.observe_partial(answer.content)
        moments.append((CHARACTER_S * (FRAME_CHARS + written), guessed()))
    return [*moments, (CHARACTER_S * (NAMED_CHARS + written), guessed(call.tool))]


def gain(chances: Sequence[Chance], least: float, cost: float) -> Gain:
    """What is gained where a call has to be at least so likely, and a wasted second costs so much."""
    expected = fmean(chance.seconds for chance in chances)
    saved = useful = begun = 0.0
    for seconds, moments in chances:
        started: dict[str, float] = {}
        for lead, guesses in moments:
            for key, probability, is_right in guesses:
                pays = utility(probability, expected, lead, cost) > 0 and probability >= least
                if pays and key not in started and len(started) < LIMITS.per_session:
                    started[key] = min(seconds, lead) if is_right else 0.0
        begun += len(started)
        useful += any(started.values())
        saved += sum(started.values())
    total = sum(chance.seconds for chance in chances)
    return Gain(saved / total if total else 0.0, (begun - useful) / max(useful, 1.0))


if __name__ == "__main__":
    sys.exit(main())
