"""Train on some sessions, test on others, and never let a task be on both sides unsaid."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, Protocol

from sglang_paste.mine.baseline import BySource, Copying, Frequent
from sglang_paste.mine.records import Session
from sglang_paste.mine.score import Online, Scorer, Tally
from sglang_paste.mine.split import Tasks, recording_key

MINED = "mined"
COPYING = "bigram + copy"
FREQUENT = "most frequent"

Sessions = Iterable[Session]
Side = Literal["unseen", "recurring"]
Key = tuple[Side, str, str]
"""Of which side, which source, which predictor."""


class Opener(Protocol):
    """A trained predictor."""

    def session(self, tools: Sequence[str] | None = None, *, inert: Sequence[str] = ()) -> Online:
        """A session to predict that may call `tools`. `inert` arguments (NAME or TOOL.NAME) need not be predicted."""


Trainer = Callable[[Sessions], Opener]


class Evaluation:
    """Tallies by side, source and predictor, over one or several splits.

    Test sessions of a task that was also trained on (by its id or its text) are the side `recurring`, all others are
    `unseen`; a session that was itself trained on is in neither, and counted in `leaked`.
    """

    def __init__(self, train: Trainer, inert: Sequence[str] = ()) -> None:
        self._train = train
        self._inert = inert
        self.tallies: dict[Key, Tally] = {}
        self.scorer = Scorer(inert)
        self.trained = 0
        self.tested = 0
        self.leaked = 0
        self._others = Scorer(inert)

    def run(self, train: Sessions, test: Sessions) -> None:
        """Train all predictors in one pass over `train`, then test them in one pass over `test`."""
        copying, frequent, tasks, known = BySource(Copying), BySource(Frequent), Tasks(), set[bytes]()

        def noted() -> Iterator[Session]:
            for session in train:
                tasks.add(session)
                known.add(recording_key(session))
                copying.add(session)
                frequent.add(session)
                self.trained += 1
                yield session

        mined = self._train(noted())
        copying.finish()
        frequent.finish()
        for session in test:
            if recording_key(session) in known:
                self.leaked += 1
                continue
            self.tested += 1
            side: Side = "recurring" if session in tasks else "unseen"
            predictors = {MINED: mined, COPYING: copying.of(session), FREQUENT: frequent.of(session)}
            for name, predictor in predictors.items():
                tally = self.tallies.setdefault((side, session.source, name), Tally())
                scorer = self.scorer if name == MINED else self._others
                scorer.score(session, predictor.session(session.tools, inert=self._inert), tally, session.task_id)


def mined(k: int, progress: Callable[[float], None] | None = None) -> Trainer:
    """Trains as `sglang-paste mine` does, over a file, so that what is tested is what a server would load."""

    def train(sessions: Sessions) -> Opener:
        from sglang_paste.mine.learn import Miner
        from sglang_paste.predict import load, patternfile

        miner = Miner(k=k)
        for session in sessions:
            miner.add(session)
        with tempfile.TemporaryDirectory(prefix="sglang-paste-") as folder:
            path = Path(folder) / "patterns"
            patternfile.save(path, miner.finish(progress))
            return load(path)

    return train
