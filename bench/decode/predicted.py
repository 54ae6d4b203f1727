"""What the predictor expects before each call, from patterns mined of other tasks: never an oracle."""

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from sglang_paste.calls import Arguments
from sglang_paste.events import MAX_FORESEEN
from sglang_paste.mine.learn import Miner
from sglang_paste.mine.messages import steps
from sglang_paste.mine.records import Session
from sglang_paste.predict import Mined, MinedSession, load, patternfile

LEAST_PROBABILITY = 0.02


class Guess(NamedTuple):
    """A call that may come."""

    tool: str
    arguments: Arguments
    probability: float


class Expected(NamedTuple):
    """What may come, the likeliest first: as a turn opens its call, and once its tool is named."""

    opened: Sequence[Guess] = ()
    named: Sequence[Guess] = ()


def mined(sessions: Iterable[Session]) -> Mined:
    """Patterns of these sessions, by way of a file as the server reads it."""
    miner = Miner()
    for session in sessions:
        miner.add(session)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "patterns")
        patternfile.save(file, miner.finish())
        return load(str(file))


def predictions(patterns: Mined, session: Session) -> dict[int, Expected]:
    """For each turn with calls, by its number, what a server expects that sees what is said before them."""
    online, found = patterns.session(), dict[int, Expected]()
    for number, step in enumerate(steps(session)):
        if step.calls:
            online.observe_partial(step.turn.content)
            found[number] = Expected(_likely(online), _likely(online, step.calls[0].name))
        for message in step.messages:
            online.observe(message)
    return found


def _likely(online: MinedSession, tool: str | None = None) -> list[Guess]:
    """A draft that is wrong costs rows of a step and no tool's run, so it may be much less likely than a call that runs
    early."""
    guesses = [Guess(each.tool, each.arguments, each.probability) for each in online.candidates(MAX_FORESEEN, tool)]
    return [guess for guess in guesses if guess.probability >= LEAST_PROBABILITY]
