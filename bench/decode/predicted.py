"""What the predictor expects before each call, from patterns mined of other tasks: never an oracle."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

from sglang_paste.mine.learn import Miner
from sglang_paste.mine.messages import steps
from sglang_paste.mine.records import Call, Session
from sglang_paste.predict import Mined, load, patternfile

LEAST_PROBABILITY = 0.02
MOST = 4


def mined(sessions: Iterable[Session]) -> Mined:
    """Patterns of these sessions, by way of a file as the server reads it."""
    miner = Miner()
    for session in sessions:
        miner.add(session)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "patterns")
        patternfile.save(file, miner.finish())
        return load(str(file))


def predictions(patterns: Mined, session: Session) -> dict[int, list[Call]]:
    """For each turn with calls, by its number, what may come, the likeliest first: a draft that is
    wrong costs rows of a step and no tool's run, so it may be much less likely than a call that runs early."""
    online, found = patterns.session(), dict[int, list[Call]]()
    for number, step in enumerate(steps(session)):
        if step.calls:
            likely = [guess for guess in online.candidates(MOST) if guess.probability >= LEAST_PROBABILITY]
            found[number] = [Call(guess.tool, guess.arguments) for guess in likely]
        for message in step.messages:
            online.observe(message)
    return found
