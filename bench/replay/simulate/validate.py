"""The model beside the real run that its times were measured in."""

from collections.abc import Sequence
from statistics import fmean

import msgspec

from bench.replay.records import Block, Call, Place, Row, Run, Setting, Task
from bench.replay.simulate import calibrate, observe
from bench.replay.simulate.play import play
from bench.replay.simulate.server import Options
from bench.replay.simulate.workload import FEATURES, Service
from sglang_paste.config import Limits

TARGET_PCT = 10.0


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """One run in one setting: mean seconds of a task, real and simulated."""

    setting: Setting
    run: Run
    n: int
    real_s: float
    simulated_s: float

    @property
    def error_pct(self) -> float:
        """How far the model is from the real run, in per cent of it."""
        return 100 * (self.simulated_s / self.real_s - 1)


def validate(rows: Sequence[Row], *, pool: int, limits: Limits = Limits()) -> list[Checked]:  # noqa: B008
    """Simulate every block of the rows, with service times from stock of the same setting."""
    settings = list(dict.fromkeys(row.place.setting for row in rows))
    return [each for setting in settings for each in _setting(_blocks(rows, setting), setting, pool, limits)]


def sim_error_pct(checked: Sequence[Checked]) -> float | None:
    """The largest error of all, without its sign."""
    return max((abs(each.error_pct) for each in checked), default=None)


def service_of(blocks: dict[Place, tuple[list[Task], Block]], pool: int) -> Service | None:
    """A server's times, from its blocks in one setting; None without stock."""
    stock = [tasks for place, (tasks, _) in blocks.items() if place.run == "A"]
    if not stock:
        return None
    drafts = [tasks for place, (tasks, _) in blocks.items() if place.run == "C"]
    drafts = drafts or [tasks for place, (tasks, _) in blocks.items() if place.run == "A2"]
    plain = calibrate.measure(stock)
    calls: dict[Run, list[Call]] = {}
    for place, (tasks, _) in blocks.items():
        calls.setdefault(place.run, []).extend(call for task in tasks for call in task.calls)
    with_drafts = calibrate.measure(drafts, plain) if drafts else None
    between = calibrate.pause([task for tasks in stock for task in tasks])
    return calibrate.service(plain, with_drafts, calls, between, pool)


def _setting(
    blocks: dict[Place, tuple[list[Task], Block]], setting: Setting, pool: int, limits: Limits
) -> list[Checked]:
    service = service_of(blocks, pool)
    if service is None:
        return []
    found: dict[Run, list[tuple[float, float]]] = {}
    for place, (tasks, block) in blocks.items():
        options = Options(policies=observe.policies(tasks), limits=limits)
        simulated = play(place, observe.queues(tasks, block, place.repetition), service, options)
        times = {row.session: row.task_s for row in simulated if isinstance(row, Task)}
        found.setdefault(place.run, []).extend((task.task_s, times[task.session]) for task in tasks)
    return [
        Checked(
            setting=setting,
            run=run,
            n=len(found[run]),
            real_s=fmean(real for real, _ in found[run]),
            simulated_s=fmean(simulated for _, simulated in found[run]),
        )
        for run in FEATURES
        if run in found
    ]


def _blocks(rows: Sequence[Row], setting: Setting) -> dict[Place, tuple[list[Task], Block]]:
    found: dict[Place, tuple[list[Task], Block]] = {}
    tasks: dict[Place, list[Task]] = {}
    for row in rows:
        if row.place.setting == setting and isinstance(row, Task):
            tasks.setdefault(row.place, []).append(row)
        elif row.place.setting == setting and isinstance(row, Block):
            found[row.place] = (tasks.get(row.place, []), row)
    return {place: each for place, each in found.items() if each[0]}
