"""Sessions by the thousand on fleets of servers: what is gained, and at which load it turns.

A session stays on its server where the router knows sessions, so that servers are independent of each other: of a fleet
of many, some are simulated that stand for all, with as many sessions each as chance gives them. Where the router sends
every turn to the least loaded server, a part of the fleet is simulated, as a fleet of its own.
"""

import math
import random
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from bench.replay.records import Block, Place, Row, Run, Setting, Task
from bench.replay.report.stats import quantile
from bench.replay.report.summary import prefix_hit_pct
from bench.replay.simulate.play import Fleet, Routing, play
from bench.replay.simulate.server import Options
from bench.replay.simulate.shapes import Foresight, prepared
from bench.replay.simulate.workload import Service, Session, Use

LOADS = (2, 4, 8, 12, 16, 20, 24, 32, 48, 64)
RUNS: tuple[Run, ...] = ("A", "A2", "B", "C", "D", "E", "F")
PER_SERVER = 16
REPRESENTATIVES = 24
ROUNDS = 2
HOP_S = 0.001
SCALES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One run at one load: sessions at a time for each server, seconds of a task, tasks that a server ends in an hour,
    per cent of the time that its engine is busy, and of the prompts that are cached."""

    run: Run
    sessions: int
    servers: int
    simulated: int
    routing: Routing
    tasks: int
    mean_s: float
    p99_s: float
    per_hour: float
    engine_pct: float
    prefix_hit_pct: float
    tool_share_pct: float


def over_load(
    sessions: Sequence[Session],
    service: Service,
    options: Options,
    foresight: Foresight,
    loads: Sequence[int] = LOADS,
    runs: Sequence[Run] = RUNS,
) -> Iterator[Point]:
    """Each run on one server, at each load with the same sessions."""
    for load in loads:
        for run in runs:
            ready = prepared(sessions, run, foresight)
            queues = _queues(ready, [load], math.ceil(ROUNDS * max(loads) / load))[0]
            rows = play(_place(run, load), queues, service, options, Fleet(hop=HOP_S))
            yield _point(rows, run, load, 1, 1, "affine")


def over_share(
    sessions: Sequence[Session],
    service: Service,
    options: Options,
    foresight: Foresight,
    scales: Sequence[float] = SCALES,
    load: int = 8,
) -> Iterator[tuple[float, Point]]:
    """Stock, early tools and everything on one server at one load, with tools that take `scales` times as long."""
    for scale in scales:
        scaled = [_scaled(each, scale) for each in sessions]
        for run in ("A", "B", "F"):
            queues = _queues(prepared(scaled, run, foresight), [load])[0]
            rows = play(_place(run, load), queues, service, options, Fleet(hop=HOP_S))
            yield scale, _point(rows, run, load, 1, 1, "affine")


def fleets(
    sessions: Sequence[Session],
    service: Service,
    options: Options,
    foresight: Foresight,
    sizes: Sequence[int] = (64, 1_000, 100_000),
) -> Iterator[Point]:
    """Fleets for so many sessions at a time, each with both routers, on stock and with everything."""
    for size in sizes:
        servers = max(round(size / PER_SERVER), 1)
        simulated = min(servers, REPRESENTATIVES)
        routings: tuple[Routing, ...] = ("affine", "least loaded") if servers > 1 else ("affine",)
        for routing in routings:
            for run in ("A", "F"):
                ready = prepared(sessions, run, foresight)
                rows = _fleet(ready, run, size, servers, simulated, routing, service, options)
                yield _point(rows, run, size, servers, simulated, routing)


def turn(points: Sequence[Point], run: Run = "F") -> tuple[Point, Point | None]:
    """The load at which a run gains most, and the first beyond it at which it gains less than half of that."""
    gains = gains_pct(points, run)
    best = max(gains, key=lambda load: gains[load])
    later = [load for load in gains if load > best and gains[load] < gains[best] / 2]
    by_load = {point.sessions: point for point in points if point.run == run}
    return by_load[best], by_load[min(later)] if later else None


def gains_pct(points: Sequence[Point], run: Run) -> dict[int, float]:
    """Per cent of stock's mean task time that a run saves, by load."""
    stock = {point.sessions: point.mean_s for point in points if point.run == "A"}
    mine = {point.sessions: point.mean_s for point in points if point.run == run}
    return {load: 100 * (1 - mine[load] / stock[load]) for load in sorted(mine) if load in stock}


def _fleet(
    ready: Sequence[Session],
    run: Run,
    size: int,
    servers: int,
    simulated: int,
    routing: Routing,
    service: Service,
    options: Options,
) -> list[Row]:
    if routing == "least loaded":
        queues = _queues(ready, [round(size * simulated / servers)])[0]
        return play(_place(run, size), queues, service, options, Fleet(servers=simulated, routing=routing, hop=HOP_S))
    counts = _by_chance(size, servers)[:simulated] if servers > 1 else [size]
    rows: list[Row] = []
    for queues in _queues(ready, counts):
        rows += play(_place(run, size), queues, service, options, Fleet(hop=HOP_S))
    return rows


def _scaled(session: Session, scale: float) -> Session:
    """The same session with tools that take `scale` times as long."""

    def slower(use: Use) -> Use:
        return msgspec.structs.replace(use, seconds=scale * use.seconds)

    turns = [msgspec.structs.replace(turn, uses=tuple(map(slower, turn.uses))) for turn in session.turns]
    return msgspec.structs.replace(session, turns=tuple(turns))


def _by_chance(size: int, servers: int, seed: int = 0) -> list[int]:
    """How many sessions each server gets where a hash of the session decides."""
    chance = np.random.default_rng(seed)
    return [int(count) for count in chance.multinomial(size, [1 / servers] * servers)]


def _queues(sessions: Sequence[Session], counts: Sequence[int], rounds: int = ROUNDS) -> list[list[list[Session]]]:
    """For each server as many agents as it has sessions at a time. Each plays `rounds`, from a random moment on."""
    chance = random.Random(sum(counts))
    found, number = [], 0
    for count in counts:
        agents = []
        for _ in range(count):
            queue = []
            for round_ in range(rounds):
                each = sessions[number % len(sessions)]
                begins = chance.uniform(0.0, 30.0) if round_ == 0 else 0.0
                queue.append(msgspec.structs.replace(each, id=f"{each.id}#{number}", begins=begins))
                number += 1
            agents.append(queue)
        found.append(agents)
    return found


def _place(run: Run, sessions: int) -> Place:
    return Place(setting=Setting(name="fleet", agents=sessions, scale=1.0, model="8B"), run=run, repetition=0)


def _point(rows: Sequence[Row], run: Run, sessions: int, servers: int, simulated: int, routing: Routing) -> Point:
    tasks = [row for row in rows if isinstance(row, Task)]
    blocks = [row for row in rows if isinstance(row, Block)]
    times = np.array([task.task_s for task in tasks])
    hours = sum(block.wall_s for block in blocks) * (simulated / len(blocks)) / 3600
    return Point(
        run=run,
        sessions=sessions,
        servers=servers,
        simulated=simulated,
        routing=routing,
        tasks=len(tasks),
        mean_s=float(times.mean()),
        p99_s=float(quantile(0.99)(times)),
        per_hour=len(tasks) / hours,
        engine_pct=100 * sum(block.engine_busy_s for block in blocks) / (hours * 3600),
        prefix_hit_pct=prefix_hit_pct(tasks),
        tool_share_pct=100 * sum(task.tools_s for task in tasks) / float(times.sum()),
    )
