"""Mining: recorded sessions in, patterns out."""

from collections.abc import Callable, Mapping, Sequence
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
JUDGED = 2
Parts = list[set[str]]
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
            parts = parted(self._spool.tasks(), PARTS)
            plan = Plan(self._survey(parts))
            told(0.2)
            lesson = Lesson(plan, self._examples(parts, plan))
            told(0.5)
            patterns, *learned = self._fitted(plan, lesson)
            told(0.8)
            self._judge(parts, patterns, learned)
            return patterns

    def _survey(self, parts: Parts) -> Survey:
        def counted(part: int) -> bytes:
            survey = Survey(self.k)
            for session, task in self._spool.of(parts[part].__contains__):
                survey.add(session, task)
            return _encode(survey)

        whole = Survey(self.k)
        for data in spread(counted, PARTS, self._processes):
            whole.join(msgspec.msgpack.decode(data, type=Survey))
        return whole

    def _examples(self, parts: Parts, plan: Plan) -> list[Examples]:
        def collected(part: int) -> bytes:
            collector = Collector(plan)
            for session, task in self._spool.of(parts[part].__contains__):
                collector.add(session, half_of(task))
            return _encode(collector.examples())

        done = spread(collected, PARTS, self._processes)
        return [msgspec.msgpack.decode(part, type=Examples) for part in done]

    def _fitted(self, plan: Plan, lesson: Lesson) -> list[Patterns]:
        """The patterns of all parts, and those of all but one for each that is judged."""
        sides = (None, *range(JUDGED))
        keys = list(plan.arguments)

        def fitted(number: int) -> bytes:
            if number < len(sides):
                return _encode(lesson.shapes(sides[number]))
            return _encode(lesson.argument(keys[number - len(sides)], sides))

        done = spread(fitted, len(sides) + len(keys), self._processes)
        shapes = [msgspec.msgpack.decode(data, type=Block) for data in done[: len(sides)]]
        arguments = [msgspec.msgpack.decode(data, type=list[Argument]) for data in done[len(sides) :]]
        return [
            lesson.patterns(shapes[place], [of_sides[place] for of_sides in arguments]) for place in range(len(sides))
        ]

    def _judge(self, parts: Parts, patterns: Patterns, learned: Sequence[Patterns]) -> None:
        """What is remembered of all tasks, and how good what was learned is on the part it was not learned from."""

        def done(number: int) -> bytes:
            if not number:
                return _encode(remember(self._spool))
            return _encode(judge(Mined(learned[number - 1]), self._spool.of(parts[number - 1].__contains__)))

        remembered, *judged = spread(done, 1 + JUDGED, self._processes)
        patterns.recollections, patterns.trust, patterns.recalled = msgspec.msgpack.decode(remembered, type=Remembered)
        told = [msgspec.msgpack.decode(outcomes, type=tuple[Outcomes, Outcomes]) for outcomes in judged]
        patterns.levels = levels([silent for silent, _ in told])
        patterns.saying = levels([saying for _, saying in told])


def parted(tasks: Mapping[str, str], count: int) -> Parts:
    """The tasks, each with its source, in parts that have about as many of each source."""
    parts: Parts = [set() for _ in range(count)]
    of_source: dict[str, list[str]] = {}
    for task in sorted(tasks, key=_shuffled):
        of_source.setdefault(tasks[task], []).append(task)
    for source, some in of_source.items():
        start = int.from_bytes(_shuffled(source)[:4])
        for number, task in enumerate(some, start):
            parts[number % count].add(task)
    return parts


def _shuffled(name: str) -> bytes:
    return sha256(f"part/{name}".encode()).digest()


def half_of(task: str) -> int:
    """0 or 1, by the task."""
    return sha256(f"half/{task}".encode()).digest()[0] & 1


def _quietly(share: float) -> None: ...
