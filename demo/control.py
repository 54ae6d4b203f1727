"""Controls: two sides that should take the same time, compared step by step, since the machine's speed drifts."""

import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import httpx

from demo.agent import Agent, Step, TaskRun
from demo.servers import TOKEN, Side
from demo.tasks import Task

QUIET_SECONDS = 30
RESAMPLES = 2000

Runs = dict[str, TaskRun]


def in_lockstep(
    agents: Mapping[str, Agent], tasks: Sequence[Task], rounds: int, side: Side, progress: Callable[[str], None]
) -> list[Runs]:
    """Every task `rounds` times, each step on one side and then on the other; the side that goes first alternates.

    Before each step, nothing of the step before runs any more, so that one side's waste is not paid for by the other.
    """
    done = []
    for number in range(rounds):
        for task in tasks:
            running = {name: agent.steps(task) for name, agent in agents.items()}
            steps: dict[str, list[Step]] = {name: [] for name in agents}
            for place in range(len(task.steps) + 1):
                for name in sorted(agents, reverse=(number + place) % 2 == 0):
                    _wait_until_quiet(side)
                    steps[name].append(next(running[name]))
            done.append({name: TaskRun(task=task.name, steps=tuple(taken)) for name, taken in steps.items()})
            times = ", ".join(f"{run.seconds:.1f} s on {name}" for name, run in sorted(done[-1].items()))
            progress(f"round {number + 1}/{rounds}, {task.name}: {times}")
    return done


def step_changes(pairs: Sequence[tuple[TaskRun, TaskRun]]) -> dict[str, float | int]:
    """The median change from the first to the second side over all steps, in percent, with its 95 % interval."""
    ratios = [
        100 * (second.seconds / first.seconds - 1)
        for one, other in pairs
        for first, second in zip(one.steps, other.steps, strict=True)
    ]
    draw = random.Random(0)  # noqa: S311
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(RESAMPLES))
    low, high = medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES)]
    return {
        "steps": len(ratios),
        "step_median_change_pct": round(statistics.median(ratios), 2),
        "step_interval_low_pct": round(low, 2),
        "step_interval_high_pct": round(high, 2),
    }


def _wait_until_quiet(side: Side) -> None:
    """Return when no tool runs early, as the gateway's metrics say once a second."""
    deadline = time.monotonic() + QUIET_SECONDS
    while time.monotonic() < deadline:
        time.sleep(1.2)
        answer = httpx.get(f"{side.spans_url}/metrics", headers={"authorization": f"Bearer {TOKEN}"}, timeout=30)
        if "\npaste_entries 0.0\n" in answer.raise_for_status().text:
            return
    raise RuntimeError(f"tools still run early {QUIET_SECONDS} s after the step; see the gateway's log")
