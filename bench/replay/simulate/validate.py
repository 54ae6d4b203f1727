"""The model beside the real run that its times were measured in."""

from collections.abc import Sequence
from statistics import fmean

import msgspec

from bench.replay.records import STOCK, Block, Call, Place, Row, Run, Setting, Task
from bench.replay.simulate import calibrate, observe
from bench.replay.simulate.play import play
from bench.replay.simulate.server import Options
from bench.replay.simulate.workload import FEATURES, Service
from sglang_paste.config import Limits

TARGET_PCT = 10.0
CHUNK, RUNNING, WARM = 2048, 64, 512


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


Played = dict[Place, tuple[list[Task], Block]]


def validate(rows: Sequence[Row], *, pool: int, limits: Limits) -> list[Checked]:
    """Simulate every block of the rows with the service times of its model."""
    played = by_place(rows)
    models = {place.setting.model for place in played}
    known = {
        model: services({p: each for p, each in played.items() if p.setting.model == model}, pool) for model in models
    }
    found: dict[tuple[Setting, Run], list[tuple[float, float]]] = {}
    for place, (tasks, block) in played.items():
        service = known[place.setting.model].get(place.run)
        if service is not None:
            options = Options(policies=observe.policies(tasks), limits=limits, warm_slice=WARM)
            simulated = play(place, observe.queues(tasks, block, place.repetition), service, options)
            times = {row.session: row.task_s for row in simulated if isinstance(row, Task)}
            pairs = found.setdefault((place.setting, place.run), [])
            pairs += [(task.task_s, times[task.session]) for task in tasks]
    return [_checked(setting, run, pairs) for (setting, run), pairs in found.items()]


def sim_error_pct(checked: Sequence[Checked]) -> float | None:
    """The largest error of all, without its sign."""
    return max((abs(each.error_pct) for each in checked), default=None)


def services(played: Played, pool: int) -> dict[Run, Service]:
    """A server's times in each run, from all blocks of a model; none without stock.

    A step with drafts is timed in the run itself for NGRAM's, and in C for ours, or else in F; what a turn takes on a
    server that keeps tokens, in D, or else in F. What calls take beside their tools is that of stock for stock, which
    has no gateway, and of all other runs for those.
    """

    def blocks(*runs: Run) -> list[list[Task]]:
        return [tasks for place, (tasks, _) in played.items() if place.run in runs]

    stock = blocks("A")
    if not stock:
        return {}
    plain = calibrate.measure(stock)
    pause = calibrate.pause([task for tasks in stock for task in tasks])
    ours: tuple[Run, ...] = ("B", "C", "D", "E", "F")
    beside = {run: calibrate.overheads(_calls(blocks(*(("A",) if run in STOCK else ours)))) for run in FEATURES}
    found: dict[Run, Service] = {}
    for run, features in FEATURES.items():
        timed = (blocks("A2") if run == "A2" else blocks("C") or blocks("F")) if features.drafts else []
        kept = blocks("D") or blocks("F") if features.sessions else []
        call, claim = beside[run]
        found[run] = Service(
            prefill=plain.prefill,
            decode=plain.step,
            verify=(calibrate.measure(timed, plain) if timed else plain).step,
            tokenise=plain.tokenise,
            turn=(calibrate.measure(kept, plain) if kept else plain).turn,
            call=call,
            claim=claim,
            pause=pause,
            pool=pool,
            chunk=CHUNK,
            running=RUNNING,
        )
    return found


def _calls(blocks: Sequence[Sequence[Task]]) -> list[Call]:
    return [call for tasks in blocks for task in tasks for call in task.calls]


def _checked(setting: Setting, run: Run, pairs: Sequence[tuple[float, float]]) -> Checked:
    real, simulated = (fmean(side) for side in zip(*pairs, strict=True))
    return Checked(setting=setting, run=run, n=len(pairs), real_s=real, simulated_s=simulated)


def by_place(rows: Sequence[Row]) -> Played:
    """The blocks of whole runs with their tasks, in the order of the runs."""
    tasks: dict[Place, list[Task]] = {}
    for row in rows:
        if isinstance(row, Task):
            tasks.setdefault(row.place, []).append(row)
    found = {row.place: (tasks[row.place], row) for row in rows if isinstance(row, Block) and row.place in tasks}
    order = list(FEATURES)
    settings = list(dict.fromkeys(place.setting for place in found))
    return dict(sorted(found.items(), key=lambda each: (settings.index(each[0].setting), order.index(each[0].run))))
