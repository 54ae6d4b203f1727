"""What the predictor expects before each call, from patterns mined of other tasks: never an oracle."""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from sglang_paste.calls import Arguments
from sglang_paste.events import MAX_FORESEEN
from sglang_paste.mine.learn import Miner
from sglang_paste.mine.messages import steps
from sglang_paste.mine.records import Session
from sglang_paste.predict import Mined, load, patternfile

LEAST_PROBABILITY = 0.02


class Guess(NamedTuple):
    """A call that may come."""

    tool: str
    arguments: Arguments
    probability: float


def mined(sessions: Iterable[Session]) -> Mined:
    """Patterns of these sessions, by way of a file as the server reads it."""
    miner = Miner()
    for session in sessions:
        miner.add(session)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "patterns")
        patternfile.save(file, miner.finish())
        return load(str(file))


def predictions(patterns: Mined, session: Session) -> dict[int, list[Guess]]:
    """For each turn with calls, by its number, what may come, the likeliest first. A draft that is wrong costs rows of
    a step and no tool's run, so it may be much less likely than a call that runs early."""
    online, found = patterns.session(), dict[int, list[Guess]]()
    for number, step in enumerate(steps(session)):
        if step.calls:
            likely = [Guess(each.tool, each.arguments, each.probability) for each in online.candidates(MAX_FORESEEN)]
            found[number] = [guess for guess in likely if guess.probability >= LEAST_PROBABILITY]
        for message in step.messages:
            online.observe(message)
    return found
