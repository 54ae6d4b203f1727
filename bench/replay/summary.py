"""What the rows of a replay come to, in the numbers that are asked for first."""

import statistics
from collections.abc import Iterable, Sequence

from bench.replay.records import Row, Run, Setting, Summary, Task

FAST = "fast"


def summary(rows: Sequence[Row], setting: Setting) -> Summary:
    """Per cent of the first run's mean task time that the second one saves, over the sessions that both played; None
    where one is missing. `tool_latency_ratio` is the mean of what clients waited for tools, stock through everything;
    overheads are what was lost."""
    tasks = [row for row in rows if isinstance(row, Task)]
    main = [task for task in tasks if task.place.setting == setting]
    fast = [task for task in tasks if task.place.setting.name == FAST]
    found: Summary = {
        "mean_reduction_pct": _reduction(main, "A", "F"),
        "p99_reduction_pct": _reduction(main, "A", "F", high=True),
        "vs_ngram_reduction_pct": _reduction(main, "A2", "F"),
        "tool_latency_ratio": _latency(main),
        "all_wrong_overhead_pct": _minus(_reduction(main, "same", "wrong")),
        "a_vs_a_pct": _minus(_reduction(main, "A", "same")),
        "tool_share_pct": tool_share(main),
        "sim_error_pct": None,
        "fast_tools_reduction_pct": _reduction(fast, "A", "F"),
    }
    for run, name in (("B", "tools"), ("C", "drafts"), ("D", "retention"), ("E", "order")):
        found[f"{name}_reduction_pct"] = _reduction(main, "A", run)  # type: ignore[arg-type]
    for domain in sorted({task.domain for task in main}):
        own = [task for task in main if task.domain == domain]
        found[f"mean_reduction_pct/{domain}"] = _reduction(own, "A", "F")
        found[f"tool_share_pct/{domain}"] = tool_share(own)
    for recurring in (True, False):
        own = [task for task in main if task.recurring is recurring]
        name = "recurring" if recurring else "unseen"
        found[f"mean_reduction_pct/{name}"] = _reduction(own, "A", "F")
        found[f"tool_latency_ratio/{name}"] = _latency(own)
    return found


def tool_share(tasks: Iterable[Task]) -> float | None:
    """Per cent of the task time on stock in which the client waits for tools."""
    stock = [task for task in tasks if task.place.run == "A"]
    total = sum(task.task_s for task in stock)
    return round(100 * sum(task.tools_s for task in stock) / total, 1) if total else None


def _reduction(tasks: Sequence[Task], one: Run, other: Run, *, high: bool = False) -> float | None:
    sides = _paired(tasks, one, other)
    if not sides:
        return None
    before, after = ([task.task_s for task in side] for side in sides)
    measure = percentile if high else _mean
    return round(100 * (1 - measure(after, 0.99) / measure(before, 0.99)), 2)


def _latency(tasks: Sequence[Task]) -> float | None:
    sides = _paired(tasks, "A", "F")
    waits = [[call.latency_s for task in side for call in task.calls] for side in sides]
    return round(statistics.fmean(waits[0]) / statistics.fmean(waits[1]), 2) if all(waits) and waits else None


def _paired(tasks: Sequence[Task], one: Run, other: Run) -> list[list[Task]]:
    """The tasks of two runs that both have, in the same order; empty where there are none."""

    def key(task: Task) -> tuple[int, str]:
        return task.place.repetition, task.session

    by_run = {run: {key(task): task for task in tasks if task.place.run == run} for run in (one, other)}
    both = sorted(by_run[one].keys() & by_run[other].keys())
    return [[by_run[run][each] for each in both] for run in (one, other)] if both else []


def percentile(values: Sequence[float], share: float) -> float:
    """That of few values is their largest."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _mean(values: Sequence[float], _share: float) -> float:
    return statistics.fmean(values)


def _minus(value: float | None) -> float | None:
    return None if value is None else -value
