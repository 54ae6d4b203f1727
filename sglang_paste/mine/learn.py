"""Mining: recorded sessions in, patterns out."""

from collections.abc import Callable
from contextlib import closing
from hashlib import sha256

import msgspec

from sglang_paste.mine.beside import spread
from sglang_paste.mine.calibrate import Outcomes, judge, levels
from sglang_paste.mine.examples import Collector, Examples, Plan
from sglang_paste.mine.records import Session
from sglang_paste.mine.remember import Remembered, remember
from sglang_paste.mine.spool import Spool
from sglang_paste.mine.survey import Survey
from sglang_paste.mine.train import Lesson
from sglang_paste.predict.mined import Mined
from sglang_paste.predict.patterns import Argument, Block, Patterns

PARTS = 4
_ASIDE = 0
_encode = msgspec.msgpack.encode


class Miner:
    """Takes sessions one by one, gives patterns. The order they come in makes no difference, nor does the number of
    `processes` (as many as there are cores, where None)."""

    def __init__(self, k: int = 5, processes: int | None = None) -> None:
        self.k = k
        self._processes = processes
        self._spool = Spool()

    def add(self, session: Session) -> None:
        """Take in one session."""
        self._spool.add(session)

    def finish(self, progress: Callable[[float], None] | None = None) -> Patterns:
        """The patterns of all sessions taken in, which are then forgotten."""
        with closing(self._spool):
            told = progress or _quietly
            plan = Plan(self._survey())
            told(0.2)
            lesson = Lesson(plan, self._examples(plan))
            told(0.5)
            patterns, learned = self._fitted(plan, lesson)
            told(0.8)
            self._judge(patterns, Mined(learned))
            return patterns

    def _survey(self) -> Survey:
        def counted(part: int) -> bytes:
            survey = Survey(self.k)
            for session, task in self._spool.of(lambda task: part_of(task) == part):
                survey.add(session, task)
            return _encode(survey)

        whole = Survey(self.k)
        for data in spread(counted, PARTS, self._processes):
            whole.join(msgspec.msgpack.decode(data, type=Survey))
        return whole

    def _examples(self, plan: Plan) -> list[Examples]:
        def collected(part: int) -> bytes:
            collector = Collector(plan)
            for session, task in self._spool.of(lambda task: part_of(task) == part):
                collector.add(session, half_of(task))
            return _encode(collector.examples())

        parts = spread(collected, PARTS, self._processes)
        return [msgspec.msgpack.decode(part, type=Examples) for part in parts]

    def _fitted(self, plan: Plan, lesson: Lesson) -> tuple[Patterns, Patterns]:
        """The patterns of all tasks, and those of all but the ones set aside."""
        keys = list(plan.arguments)
        sides = (None, _ASIDE)
        work = [(side, key) for key in (None, *keys) for side in sides]

        def fitted(number: int) -> bytes:
            side, key = work[number]
            return _encode(lesson.shapes(side) if key is None else lesson.argument(key, side))

        done = spread(fitted, len(work), self._processes)
        found = []
        for place in range(len(sides)):
            shapes, *arguments = done[place :: len(sides)]
            found.append(
                lesson.patterns(
                    msgspec.msgpack.decode(shapes, type=Block),
                    [msgspec.msgpack.decode(argument, type=Argument) for argument in arguments],
                )
            )
        return found[0], found[1]

    def _judge(self, patterns: Patterns, learned: Mined) -> None:
        """What is remembered of all tasks, and how good what was learned is on those set aside."""

        def done(number: int) -> bytes:
            if number:
                return _encode(judge(learned, self._spool.of(lambda task: part_of(task) == _ASIDE)))
            return _encode(remember(self._spool))

        remembered, judged = spread(done, 2, self._processes)
        patterns.recollections, patterns.trust = msgspec.msgpack.decode(remembered, type=Remembered)
        patterns.levels = levels(msgspec.msgpack.decode(judged, type=Outcomes))


def part_of(task: str) -> int:
    """The part a task is in."""
    return sha256(f"part/{task}".encode()).digest()[0] % PARTS


def half_of(task: str) -> int:
    """0 or 1, by the task."""
    return sha256(f"half/{task}".encode()).digest()[0] & 1


def _quietly(share: float) -> None: ...
