"""The side process's loops around tools that do as the test tells them, on a bus in memory."""

import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import anyio
import msgspec

from sglang_paste.calls import Arguments, SessionId, TenantId, ToolCall
from sglang_paste.config import Limits, Policy, ToolConfig
from sglang_paste.errors import BadArguments, UnknownTool
from sglang_paste.events import CallReady, Event, Ping
from sglang_paste.execute.base import Outcome
from sglang_paste.execute.catalog import ToolInfo
from sglang_paste.gateway.api import Answer, Ticket
from sglang_paste.predict import Candidate, RunTime
from sglang_paste.speculate.journal import Journal
from sglang_paste.speculate.service import Service
from sglang_paste.speculate.tools import Known
from sglang_paste.wire.memory import MemorySide

T = TypeVar("T")
DEADLINE = 10.0
TENANT, SESSION = TenantId("default"), SessionId("s1")
READ = Policy(effect="read", reads=("files",), observes="local", speculate=True, concurrency=2)
WRITE = Policy(effect="write", writes=("files",), observes="local")
PURE = Policy(effect="pure", observes="local", speculate=True)


class FakeRun:
    def __init__(self, call: ToolCall, speculative: bool) -> None:
        self.call, self.speculative = call, speculative
        self.promoted = self.cancelled = False
        self._outcome: Outcome | None = None
        self._done = anyio.Event()

    def finish(self, content: str = "ok", **rest: Any) -> None:
        if self._outcome is None:
            self._outcome = Outcome(content=content, duration=0.5, **rest)
            self._done.set()

    async def wait(self) -> Outcome:
        await self._done.wait()
        assert self._outcome is not None
        return self._outcome

    def promote(self) -> None:
        self.promoted = True

    async def cancel(self) -> None:
        self.cancelled = True
        self.finish("cancelled", failure="cancelled")


class FakeTools:
    def __init__(self, **policies: Policy) -> None:
        schema = {"type": "object", "properties": {"path": {"type": "string"}}}
        self.policies = policies
        self.infos = {
            name: ToolInfo(name=name, description="", parameters=schema, policy=policy, kind="python")
            for name, policy in policies.items()
        }
        self.runs: list[FakeRun] = []

    def tools(self) -> list[ToolInfo]:
        return list(self.infos.values())

    def tool(self, name: str) -> ToolInfo:
        if name not in self.infos:
            raise UnknownTool(f"there is no tool {name!r}")
        return self.infos[name]

    def validate(self, name: str, arguments: Arguments) -> None:
        missing = [each for each in self.tool(name).parameters.get("required", ()) if each not in arguments]
        if missing:
            raise BadArguments(f"{missing} is missing")
        if not isinstance(arguments.get("path", ""), str):
            raise BadArguments("path must be a text")

    def why_not_early(self, name: str, arguments: Arguments | None = None) -> str | None:
        return None if self.tool(name).policy.speculate else "it is not marked"

    def launch(self, call: ToolCall, *, speculative: bool) -> FakeRun:
        run = FakeRun(call, speculative)
        self.runs.append(run)
        return run


class FakeLearning:
    """A stream predictor that is always sure."""

    def __init__(self) -> None:
        self.confirmed: list[tuple[ToolCall, str, bool]] = []

    def observe(self, event: Event) -> list[Candidate]:
        return [candidate(event.tool, event.arguments, event.session)] if isinstance(event, CallReady) else []

    def confirm(
        self, call: ToolCall, content: str, duration: float, *, ok: bool, asked: float | None = None
    ) -> list[Candidate]:
        self.confirmed.append((call, content, ok))
        guess = msgspec.structs.replace(candidate("read", arguments("next")), probability=0.4)
        return [guess] if call.arguments["path"] == "followed" else []

    def under_way(self, call: ToolCall) -> list[Candidate]:
        """A path that names another one is followed by that."""
        _, _, following = str(call.arguments["path"]).partition(" then ")
        return [candidate("read", arguments(following))] if following else []

    def foresee(self, call: ToolCall, content: str, probability: float, claimed_in: float) -> list[Candidate]:
        """A result that names a path leads there, however often."""
        if not content.startswith("read "):
            return []
        ahead = candidate("read", arguments(content.removeprefix("read ")))
        return [msgspec.structs.replace(ahead, probability=0.9 * probability, claimed_in=claimed_in + 1.0)]

    def run_time(self, tenant: TenantId, tool: str) -> RunTime:
        return RunTime(p50=1.0, p90=2.0)

    async def save(self) -> None:
        pass


def candidate(tool: str, arguments: str, session: SessionId = SESSION) -> Candidate:
    return Candidate(
        tenant=TENANT,
        session=session,
        tool=tool,
        arguments={"path": arguments.split('"')[3]} if arguments != "{}" else {},
        probability=0.99,
        run_time=RunTime(p50=1.0, p90=2.0),
        claimed_in=1.0,
        source="stream",
    )


def arguments(path: str) -> str:
    return f'{{"path":"{path}"}}'


class House:
    """A service with its engine, its tools and its journal."""

    def __init__(
        self, service: Service, bus: MemorySide, tools: FakeTools, learning: FakeLearning, journal: Journal
    ) -> None:
        self.service, self.bus, self.tools, self.learning, self.journal = service, bus, tools, learning, journal
        self.desk = service.desk
        self.engine = bus.connect("scheduler-0")
        self.indices, self.markers = itertools.count(), itertools.count(1)

    def say(self, kind: type[Event], session: SessionId = SESSION, **rest: Any) -> None:
        common = {"tenant": TENANT, "session": session, "request": "r1", "position": 1, "time": time.monotonic()}
        self.engine.send([kind(**common, **rest)])

    def ready(self, tool: str, path: str, session: SessionId = SESSION) -> None:
        self.say(CallReady, session, index=next(self.indices), tool=tool, arguments=arguments(path))

    def call(self, tool: str, path: str, **rest: Any) -> Ticket:
        return self.desk.call(ToolCall(tenant=TENANT, tool=tool, arguments={"path": path}, **rest))

    async def early(self, tool: str, path: str, session: SessionId = SESSION) -> FakeRun:
        """Announce a call and wait until it runs."""
        before = len(self.tools.runs)
        self.ready(tool, path, session)
        return await until(lambda: self.tools.runs[before] if len(self.tools.runs) > before else None)

    async def run(self, number: int) -> FakeRun:
        return await until(lambda: self.tools.runs[number] if len(self.tools.runs) > number else None)

    async def heard(self) -> None:
        """Until all that was said is handled."""
        marker = float(next(self.markers))
        self.engine.send([Ping(sender="test", time=marker, dropped=int(marker))])
        dropped = self.service.metrics.dropped.labels("scheduler-0")
        await until(lambda: dropped._value.get() == marker or None)
        assert self.service.engine_alive()

    def count(self, name: str) -> float:
        lines = self.service.metrics.text().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


async def until(found: Callable[[], T | None]) -> T:
    with anyio.fail_after(DEADLINE):
        while True:
            value = found()
            if value is not None:
                return value
            await anyio.sleep(0.001)


async def answer(ticket: Ticket) -> Answer:
    with anyio.fail_after(DEADLINE):
        return ticket.ready() or await ticket.wait()


@contextlib.asynccontextmanager
async def house(folder: Path, tools: FakeTools, limits: Limits | None = None) -> AsyncIterator[House]:
    bus, learning = MemorySide(), FakeLearning()
    config = ToolConfig(limits=limits or Limits())
    with contextlib.closing(bus), contextlib.closing(Journal(folder / "journal.sqlite")) as journal:
        async with anyio.create_task_group() as tasks:
            service = Service(tools, Known(tools), config, None, bus, learning, journal, tasks, cores_load=lambda: 0.0)
            service.start()
            yield House(service, bus, tools, learning, journal)
            service.close()
            for run in tools.runs:
                run.finish()
            tasks.cancel_scope.cancel()


def check(main: Callable[[], Awaitable[None]]) -> None:
    anyio.run(main)
