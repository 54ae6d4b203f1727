"""Agents that play sessions on simulated servers, and the rows that come of it: the same as of a real replay."""

import zlib
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from typing import Any, Literal

import msgspec
import simpy

from bench.replay.records import Block, Early, End, Place, Row, Task
from bench.replay.records import Turn as Played
from bench.replay.simulate.server import Options, Server
from bench.replay.simulate.workload import FEATURES, Service, Session
from sglang_paste.calls import SessionId
from sglang_paste.speculate.entries import Entry

Routing = Literal["affine", "least loaded"]


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """So many servers, and how a router chooses among them: always the same for a session, or the one with the fewest
    requests for every turn. `hop` is the seconds from a client to a server and back."""

    servers: int = 1
    routing: Routing = "affine"
    hop: float = 0.0


def play(
    place: Place,
    queues: Sequence[Sequence[Session]],
    service: Service,
    options: Options,
    fleet: Fleet = Fleet(),  # noqa: B008
) -> list[Row]:
    """One run: each queue is an agent that plays its sessions one after the other. Rows as of a real run."""
    env = simpy.Environment()
    servers = [Server(env, service, FEATURES[place.run], options) for _ in range(fleet.servers)]
    route = _router(servers, fleet.routing)
    tasks: list[Task] = []
    for agent, queue in enumerate(queues):
        env.process(_agent(env, place, agent, deque(queue), route, fleet.hop, service.pause, tasks))
    env.run()
    block = _block(place, env.now, servers)
    wasted = Counter(entry.session for server in servers for entry in server.side.early if entry.state != "claimed")
    return [*(msgspec.structs.replace(task, early=wasted[SessionId(task.session)]) for task in tasks), block]


def _router(servers: Sequence[Server], routing: Routing) -> Callable[[Session], Server]:
    def affine(session: Session) -> Server:
        return servers[zlib.crc32(session.id.encode()) % len(servers)]

    def least_loaded(session: Session) -> Server:
        return min(servers, key=lambda server: server.engine.requests)

    return affine if routing == "affine" else least_loaded


def _agent(
    env: simpy.Environment,
    place: Place,
    agent: int,
    sessions: deque[Session],
    route: Callable[[Session], Server],
    hop: float,
    pause: float,
    tasks: list[Task],
) -> Generator[simpy.Event, Any, None]:
    while sessions:
        session = sessions.popleft()
        yield env.timeout(max(session.begins - env.now, 0.0))
        began = env.now
        turns: list[Played] = []
        for number in range(len(session.turns)):
            yield env.timeout(hop)
            turns.append((yield env.process(route(session).turn(session, number))))
            yield env.timeout(pause)
        tasks.append(
            Task(
                place=place,
                agent=agent,
                session=session.id,
                source=session.source,
                domain=session.domain,
                recurring=session.recurring,
                began_at=began,
                task_s=env.now - began,
                executions=sum(len(turn.calls) for turn in turns),
                early=0,
                turns=tuple(turns),
            )
        )


def _block(place: Place, wall: float, servers: Sequence[Server]) -> Block:
    entries = [entry for server in servers for entry in server.side.early]
    early = tuple(_as_early(entry) for entry in entries)
    return Block(
        place=place,
        wall_s=wall,
        engine_busy_s=sum(server.engine.busy for server in servers),
        tools_busy_s=sum(server.side.busy for server in servers),
        tools_wasted_s=sum(each.run_s for each in early if each.end != "claimed"),
        peak_bytes=0,
        forwards={"decode": round(sum(server.engine.steps for server in servers))},
        early=early,
    )


def _as_early(entry: Entry) -> Early:
    end: End = "running" if entry.state in ("queued", "running") else _END.get(entry.state, "squashed")
    began = entry.started_at or 0.0
    return Early(tool=entry.tool, probability=entry.probability, end=end, run_s=(entry.settled_at or began) - began)


_END: dict[str, End] = {
    "ready": "ready",
    "claimed": "claimed",
    "squashed": "squashed",
    "expired": "expired",
    "failed": "failed",
    "cancelled": "squashed",
}
