"""Rows in order: by setting and run, and the same sessions of two runs side by side."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from bench.replay.records import Block, Place, Row, Run, Setting, Task
from bench.replay.report.stats import Array

MAIN = "main"

Measure = Callable[[Task], float]
Kind = Callable[[Task], bool]


def task_seconds(task: Task) -> float:
    """What the user waits."""
    return task.task_s


def anything(task: Task) -> bool:
    """Every task."""
    return True


class Rows:
    """The rows of a file, found by setting and run."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._tasks: dict[Place, list[Task]] = defaultdict(list)
        self._blocks: dict[Place, Block] = {}
        for row in rows:
            if isinstance(row, Task):
                self._tasks[row.place].append(row)
            else:
                self._blocks[row.place] = row

    @property
    def settings(self) -> list[Setting]:
        """All settings, the main ones first."""
        found = dict.fromkeys(place.setting for place in self._tasks)
        return sorted(found, key=lambda setting: setting.name != MAIN)

    def runs(self, setting: Setting) -> set[Run]:
        """The runs that a setting has."""
        return {place.run for place in self._tasks if place.setting == setting}

    def tasks(self, setting: Setting, run: Run) -> list[Task]:
        """All repetitions of a run."""
        return [task for place, found in self._tasks.items() if _is(place, setting, run) for task in found]

    def blocks(self, setting: Setting, run: Run) -> list[Block]:
        """One for each repetition of a run."""
        return [block for place, block in self._blocks.items() if _is(place, setting, run)]

    def with_runs(self, *runs: Run) -> Setting | None:
        """The first setting, a main one if there is, that has all these runs."""
        return next((setting for setting in self.settings if set(runs) <= self.runs(setting)), None)

    def named(self, name: str) -> Setting | None:
        """The first setting of that name."""
        return next((setting for setting in self.settings if setting.name == name), None)

    def matrix(
        self, setting: Setting, run: Run, measure: Measure = task_seconds, kind: Kind = anything
    ) -> Array | None:
        """[sessions, repetitions] of one run, as many repetitions as each session has; None where there are none."""
        return _matrix([self.tasks(setting, run)], measure, kind)[0]

    def pair(
        self, setting: Setting, base: Run, run: Run, measure: Measure = task_seconds, kind: Kind = anything
    ) -> tuple[Array, Array] | None:
        """The same of two runs, for the sessions and repetitions that both have; None where there are none."""
        one, two = _matrix([self.tasks(setting, each) for each in (base, run)], measure, kind)
        return None if one is None or two is None else (one, two)


def _matrix(sides: Sequence[Sequence[Task]], measure: Measure, kind: Kind) -> list[Array | None]:
    found = [{(task.session, task.place.repetition): measure(task) for task in tasks if kind(task)} for tasks in sides]
    common = set(found[0]).intersection(*found[1:])
    if not common:
        return [None for _ in sides]
    of_session: dict[str, list[int]] = defaultdict(list)
    for session, repetition in sorted(common):
        of_session[session].append(repetition)
    count = min(len(repetitions) for repetitions in of_session.values())
    places = [[(name, each) for each in repetitions[:count]] for name, repetitions in of_session.items()]
    return [np.array([[side[place] for place in row] for row in places]) for side in found]


def _is(place: Place, setting: Setting, run: Run) -> bool:
    return place.setting == setting and place.run == run
