"""The side process: hears the engine, runs tools early, answers authoritative calls."""

import contextlib
import functools
import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from sglang_paste.config import Settings, ToolConfig
from sglang_paste.errors import ConfigError
from sglang_paste.events import (
    CallAborted,
    CallIssued,
    CallLikely,
    CallReady,
    Directive,
    EngineEvent,
    Event,
    Message,
    Ping,
    SessionEnded,
    ToolReturned,
    TurnEnded,
    TurnStarted,
)
from sglang_paste.execute.catalog import Catalog, load_config
from sglang_paste.gateway.auth import Auth
from sglang_paste.gateway.server import bind, serving
from sglang_paste.observe.metrics import Metrics
from sglang_paste.observe.spans import Spans
from sglang_paste.predict import Predictors
from sglang_paste.speculate.budget import effective_limits
from sglang_paste.speculate.cores import Cores
from sglang_paste.speculate.desk import ToolDesk
from sglang_paste.speculate.drafts import Drafting, Learning
from sglang_paste.speculate.early import Early
from sglang_paste.speculate.entries import Entry
from sglang_paste.speculate.journal import Journal
from sglang_paste.speculate.ledger import Ledger
from sglang_paste.speculate.outlook import Outlook
from sglang_paste.speculate.record import Recorder
from sglang_paste.speculate.tools import Known, Tools
from sglang_paste.wire.bus import Side, SideBus

logger = logging.getLogger(__name__)

TICK_S = 0.25
BEAT_S = 1.0
SAVE_S = 5.0
ENGINE_SILENT_S = 5.0
GRACE_S = 1.5


class Service:
    """The loops, around one ledger. Everything in it belongs to one event loop."""

    def __init__(
        self,
        tools: Tools,
        known: Known,
        config: ToolConfig,
        budget: int | None,
        bus: Side,
        learning: Learning,
        journal: Journal,
        tasks: TaskGroup,
        clock: Callable[[], float] = time.monotonic,
        *,
        cores_load: Callable[[], float] | None = None,
        warms: bool = True,
        drafts: bool = True,
    ) -> None:
        if drafts:
            learning = Drafting(learning, lambda directives: bus.tell(directives, to="scheduler"), clock)
        self._bus = bus
        self._learning = learning
        self._tasks = tasks
        self._clock = clock
        self._known = known
        self._heard_at: float | None = None
        self.metrics = Metrics(known.policies)
        self._recorder = Recorder(self.metrics, Spans())
        limits = effective_limits(config.limits, budget)
        self._ledger = Ledger(known.policies, limits)
        self._outlook = Outlook(bus.tell, clock, warms=warms)
        self._early = Early(
            self._ledger,
            tools,
            known.policies,
            known.remote,
            limits,
            journal,
            self._recorder,
            self.spawn,
            clock,
            self.engine_alive,
            learning.foresee,
            self._outlook,
            cores_load or Cores(clock).busy,
        )
        self.desk = ToolDesk(
            tools,
            self._ledger,
            journal,
            self._early,
            learning,
            self._recorder,
            self.spawn,
            clock,
            self.engine_alive,
            self._outlook,
        )

    def engine_alive(self) -> bool:
        """Whether an engine was heard lately."""
        return self._heard_at is not None

    def start(self) -> None:
        """Begin to listen and to beat."""
        self.spawn(self._listen())
        self.spawn(self._beat())
        self.spawn(self._save())

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` beside all else; what goes wrong in it is logged and counted, and ends nothing else."""
        self._tasks.start_soon(self._guarded, work)

    def close(self) -> None:
        """Cancel what runs early."""
        self._early.drop(self._ledger.close(self._clock()))

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:
            logger.exception("a task of the side process failed")
            self.metrics.errors.labels("internal").inc()

    async def _listen(self) -> None:
        while True:
            sender, messages = await self._bus.recv()
            for message in messages:
                try:
                    self._take(sender, message)
                except Exception:
                    logger.exception("a message of %s could not be handled", sender)
                    self.metrics.errors.labels("internal").inc()
            # Frames that are there already are received without waiting; the other tasks must have their turn.
            await anyio.lowlevel.checkpoint()

    def _take(self, sender: str, message: Message) -> None:
        self._heard_at = self._clock()
        if isinstance(message, Ping):
            self._heard(sender, message)
            return
        if isinstance(message, Directive):
            return  # those come from here
        self._recorder.event(message)
        self._early.drop(self._ended_by(message))
        if isinstance(message, TurnStarted):
            self._outlook.turn_began(message.tenant, message.session)
        elif isinstance(message, SessionEnded):
            self._outlook.gone(message.tenant, message.session)
        if isinstance(message, TurnEnded) and not message.calls:
            self._early.give_up("turn ended", lambda entry: _same_session(entry, message))
        self._early.offer(self._learning.observe(message))

    def _heard(self, sender: str, ping: Ping) -> None:
        self.metrics.dropped.labels(sender).set(ping.dropped)
        self.metrics.unread.labels(sender).set(ping.unread)
        if sender == "scheduler":
            self._early.engine_load = ping.load
        if ping.starts:
            self.metrics.starts.set(ping.starts)

    def _ended_by(self, event: EngineEvent) -> list[Entry]:
        now = self._clock()
        match event:
            case CallLikely() | CallReady() | CallIssued():
                return self._ledger.announce(event, now)
            case CallAborted():
                return self._ledger.withdraw(event, now)
            case ToolReturned():
                return self._ledger.returned(event, now)
            case SessionEnded():
                return self._ledger.end_session(event.tenant, event.session, now)
        return []

    async def _beat(self) -> None:
        next_beat = 0.0
        while True:
            now = self._clock()
            try:
                self._early.drop(self._ledger.expire(now))
                self._early.plan()
                if now >= next_beat:
                    next_beat = now + BEAT_S
                    self._bus.ping_all()
                    self._look(now)
            except Exception:
                logger.exception("the side process could not look after what it holds")
                self.metrics.errors.labels("internal").inc()
            await anyio.sleep(TICK_S)

    def _look(self, now: float) -> None:
        """Once a second: is the engine there, what tools are there, how much is held."""
        if self._heard_at is not None and now - self._heard_at > ENGINE_SILENT_S:
            logger.warning("the engine has not been heard for %.0f s", ENGINE_SILENT_S)
            self._heard_at = None
            self._early.give_up("engine gone", lambda entry: True)
        self._known.refresh()
        self.metrics.engine_alive.set(self.engine_alive())
        self.metrics.malformed.set(self._bus.malformed)
        self.metrics.entries.set(len(self._ledger.queued()) + len(self._ledger.executing()))
        self.metrics.result_bytes.set(self._ledger.results_bytes)

    async def _save(self) -> None:
        while True:
            await anyio.sleep(SAVE_S)
            await self._learning.save()


async def serve(
    settings: Settings, *, catalog: Catalog | None = None, on_ready: Callable[[int], None] = lambda port: None
) -> None:
    """Serve until SIGTERM, SIGINT or cancellation; `on_ready` is told the gateway's port. Raises ConfigError where the
    settings or tools.toml cannot be used, and leaves nothing behind."""
    config = load_config(settings.tool_config) if settings.tool_config else ToolConfig()
    auth = Auth(settings.gateway_host, settings.api_key, config.tenants)
    with contextlib.ExitStack() as stack:
        bus = stack.enter_context(contextlib.closing(SideBus(settings.run_dir)))
        listener = stack.enter_context(contextlib.closing(bind(settings.gateway_host, settings.gateway_port)))
        state = _state_folder(settings.state_dir)
        journal = stack.enter_context(contextlib.closing(Journal(state / "journal.sqlite", clock=time.time)))
        async with _opened(catalog or Catalog(config)) as tools:
            known = Known(tools)
            predictors = Predictors(str(state), known.shapes, patterns=settings.patterns)
            learning = stack.enter_context(contextlib.closing(predictors))
            async with anyio.create_task_group() as tasks:
                service = Service(
                    tools,
                    known,
                    config,
                    settings.budget,
                    bus,
                    learning,
                    journal,
                    tasks,
                    warms=settings.warm_slice > 0,
                    drafts="predicted" in settings.draft_sources,
                )
                await _until_stopped(service, auth, listener, on_ready)
                tasks.cancel_scope.cancel()


async def _until_stopped(
    service: Service, auth: Auth, listener: socket.socket, on_ready: Callable[[int], None]
) -> None:
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with serving(service.desk, auth, listener, grace=GRACE_S):
            service.start()
            host, port = listener.getsockname()[:2]
            logger.info("ready: %d tools at http://%s:%d", len(service.desk.offers()), host, port)
            on_ready(port)
            async for _ in signals:
                break
            await service.desk.close(GRACE_S)
            service.close()


@contextlib.asynccontextmanager
async def _opened(catalog: Catalog) -> AsyncIterator[Catalog]:
    try:
        await catalog.open()
        yield catalog
    finally:
        with anyio.CancelScope(shield=True):
            await catalog.close()


def _state_folder(path: str) -> Path:
    folder = Path(path)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the state directory {path!r} cannot be used ({error}); choose another") from error
    return folder


def _same_session(entry: Entry, event: Event) -> bool:
    return (entry.tenant, entry.session) == (event.tenant, event.session)


def _settle(port: int) -> None:
    """What stands when serving begins (modules, mined patterns) stays: the garbage collector need not look at it."""
    gc.collect()
    gc.freeze()


def main(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT. Raises ConfigError where the settings or tools.toml cannot be used."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    # A line for every request and every connection is too much.
    for chatty in ("httpx", "httpx2", "mcp"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    if settings.cpus is not None:
        _bind_to(settings.cpus)
    anyio.run(functools.partial(serve, settings, on_ready=_settle))
    return 0


def _bind_to(cpus: tuple[int, ...]) -> None:
    try:
        os.sched_setaffinity(0, cpus)
    except OSError as error:
        raise ConfigError(f"the cores {cpus} cannot be used ({error}); name cores of this machine") from error
