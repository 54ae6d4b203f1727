"""One block: all its sessions on one server, by as many agents at once, and what it came to."""

import asyncio
import itertools
import re
import sys
import time
from collections.abc import Sequence
from typing import Any

import httpx
import msgspec
import psutil

from bench.replay.client import TIMEOUT_S, Agent, Diverged, Garbled, Played, Tools
from bench.replay.recording import Recording
from bench.replay.records import Block, Early, Place, Row, Task, Turn
from bench.replay.toolserver import ToolServer
from bench.replay.world import World
from bench.turns.server import Server
from bench.turns.stamps import Stamps

_METRIC = re.compile(r"^(paste_\w+(?:\{[^}]*\})?) ([0-9.e+-]+)$", re.MULTILINE)
_SAMPLE_S = 0.5
_BEGUN = "paste_runs_total"


class Cast(msgspec.Struct, frozen=True):
    """The sessions of a block, what the model says in each, which of them recur, and the tools offered to those of each
    source."""

    recordings: list[Recording]
    ids: dict[str, list[list[int]]]
    recurring: frozenset[str]
    offered: dict[str, list[dict[str, Any]]]


class Player:
    """Plays blocks, one after the other, with tools that all servers share."""

    def __init__(self, tools: ToolServer) -> None:
        self._tools = tools
        self._numbers = itertools.count()

    async def play(self, place: Place, server: Server, cast: Cast, scales: dict[str, float]) -> list[Row]:
        """The rows of a block; a session of which the API lost a call has none. Raises Diverged where anything else is
        not as it was recorded."""
        server.flush()
        self._tools.world = world = World(scales)
        number = next(self._numbers)
        limits = httpx.Limits(max_connections=None, keepalive_expiry=1.0)
        async with httpx.AsyncClient(timeout=TIMEOUT_S, limits=limits) as http:
            before = await _counters(http, server)
            stage = _Stage(self._tools, http, server, cast, number, other=place.run == "wrong")
            began = time.monotonic()
            memory = asyncio.create_task(_peak(server.pid))
            found = await stage.play(place.setting.agents, place.setting.rate)
            ended = time.monotonic()
            played = _whole(found)
            memory.cancel()
            counters = await _counters(http, server)
            early = await _early(http, server, began)
        _complain(len(early), counters, before)
        stamps = server.stamps()
        tasks = [_task(place, each, cast, world, stamps, began) for each in played]
        useful = sum(call.duration_s for task in tasks for call in task.calls)
        block = Block(
            place=place,
            wall_s=ended - began,
            engine_busy_s=stamps.busy(began, ended),
            tools_busy_s=world.busy_s,
            tools_wasted_s=max(0.0, world.busy_s - useful),
            peak_bytes=await _result(memory),
            forwards=_forwards(stamps, began, ended),
            counters={name: value - before.get(name, 0.0) for name, value in counters.items()},
            early=tuple(early),
        )
        return [*tasks, block]


class _Part(msgspec.Struct):
    """A session that was played, by which agent, under which name."""

    agent: int
    name: str
    recording: Recording
    began: float
    turns: list[Played]


class _Stage:
    """Agents that take the sessions in turn."""

    def __init__(
        self, tools: ToolServer, http: httpx.AsyncClient, server: Server, cast: Cast, number: int, *, other: bool
    ) -> None:
        self._server, self._http, self._cast, self._number = tools, http, cast, number
        self._port = server.port
        self._tools = Tools(http, tools, server.gateway, other=other)

    async def play(self, agents: int, rate: float | None) -> list[_Part | Garbled]:
        """All sessions: as `agents` are free, or as they arrive, `rate` a second."""
        waiting = iter(enumerate(self._cast.recordings))
        if rate is not None:
            return list(await asyncio.gather(*(self._one(n, n, each, n / rate) for n, each in waiting)))

        async def agent(number: int) -> list[_Part | Garbled]:
            return [await self._one(number, n, each) for n, each in waiting]

        return [each for found in await asyncio.gather(*map(agent, range(agents))) for each in found]

    async def _one(self, agent: int, place: int, recording: Recording, after: float = 0.0) -> _Part | Garbled:
        await asyncio.sleep(after)
        name = f"replay-{self._number}-{place}"
        began = time.monotonic()
        ids = self._cast.ids[recording.name]
        player = Agent(self._http, self._port, self._tools, recording, ids, name)
        offered = self._cast.offered[recording.source]
        try:
            return _Part(agent, name, recording, began, await player.play(self._server, offered))
        except Garbled as garbled:
            return garbled


def _whole(found: Sequence[_Part | Garbled]) -> list[_Part]:
    for each in found:
        if isinstance(each, Garbled):
            print(f"left out: {each}", file=sys.stderr, flush=True)
    return [each for each in found if isinstance(each, _Part)]


def _task(place: Place, part: _Part, cast: Cast, world: World, stamps: Stamps, block: float) -> Task:
    executions = world.executions(part.name)
    if executions.wrong:
        raise Diverged(f"{part.name}: never executed, or a write more than once: {', '.join(executions.wrong)}")
    return Task(
        place=place,
        agent=part.agent,
        session=part.recording.name,
        source=part.recording.source,
        domain=part.recording.domain,
        recurring=part.recording.name in cast.recurring,
        began_at=part.began - block,
        task_s=part.turns[-1].returned - part.began,
        executions=executions.useful,
        early=executions.in_vain,
        turns=tuple(_turn(each, stamps, block) for each in part.turns),
    )


def _turn(played: Played, stamps: Stamps, block: float) -> Turn:
    said = played.said
    return Turn(
        sent_at=said.sent - block,
        ttft_s=said.first - said.sent,
        generation_s=said.ended - said.first,
        tools_s=played.returned - said.ended,
        prompt=said.prompt,
        cached=said.cached,
        output=said.output,
        steps=sum(not forward.extend for forward in stamps.forwards[said.rid]),
        calls=played.calls,
    )


def _forwards(stamps: Stamps, began: float, ended: float) -> dict[str, int]:
    inside = [run for run in stamps.runs if began <= run.start <= ended]
    extends = sum(run.extend for run in inside)
    return {"extend": extends, "decode": len(inside) - extends}


async def _counters(http: httpx.AsyncClient, server: Server) -> dict[str, float]:
    if server.gateway is None:
        return {}
    text = (await http.get(f"http://127.0.0.1:{server.gateway}/metrics")).text
    return {
        name: float(value)
        for name, value in _METRIC.findall(text)
        if not name.partition("{")[0].endswith(("_bucket", "_created"))
    }


async def _early(http: httpx.AsyncClient, server: Server, began: float) -> Sequence[Early]:
    if server.gateway is None:
        return ()
    spans = (await http.get(f"http://127.0.0.1:{server.gateway}/v1/spans")).json()["spans"]
    return [
        Early(
            tool=span["name"],
            probability=span.get("probability"),
            written=span.get("source") == "stream",
            end=span["outcome"],
            run_s=(span["end"] or span["start"]) - span["start"],
        )
        for span in spans
        if span["lane"] == "speculative" and span["start"] >= began
    ]


def _complain(told: int, counters: dict[str, float], before: dict[str, float]) -> None:
    begun = sum(
        value - before.get(name, 0.0) for name, value in counters.items() if _BEGUN in name and "speculative" in name
    )
    if told < begun:
        print(f"of {begun:.0f} early runs the gateway tells of {told} now: waste is more", file=sys.stderr, flush=True)


async def _peak(pid: int) -> int:
    """The most memory of a process and all it started, until cancelled."""
    root, most = psutil.Process(pid), 0
    processes = [root, *root.children(recursive=True)]
    try:
        while True:
            most = max(most, sum(each.memory_info().rss for each in processes if each.is_running()))
            await asyncio.sleep(_SAMPLE_S)
    except asyncio.CancelledError:
        return most


async def _result(task: "asyncio.Task[int]") -> int:
    return await task
