"""Python functions as tools, in warm worker processes."""

import asyncio
import functools
import json
import logging
import sys

from sglang_paste.calls import Arguments, ToolCall, canonical
from sglang_paste.config import PythonTool
from sglang_paste.errors import ConfigError, WireError
from sglang_paste.execute import frames
from sglang_paste.execute.base import Outcome
from sglang_paste.execute.frames import Call, Failed, Frame, Load, Loaded, Returned
from sglang_paste.execute.offers import Offer, ToolInfo
from sglang_paste.execute.process import Overrun, Process, readable, within
from sglang_paste.execute.runs import Gate, TaskRun
from sglang_paste.execute.sandbox import Confinement, environment_of, wrap

logger = logging.getLogger(__name__)

START_TIMEOUT_S = 60.0
COMPLAINT_BYTES = 4 * 1024
ANY_OBJECT = {"type": "object"}


class WorkerDied(Exception):
    """The worker ended or broke its protocol; the message is what it last complained of."""


class Worker:
    """One worker process that has loaded the function."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.loaded = Loaded(description="", parameters=None)
        self._complaints = b""
        self._listening: asyncio.Task[None] | None = None

    async def open(self, load: Load) -> None:
        """Load the function; raises ConfigError where it cannot be, WorkerDied."""
        self._input = await self.process.writer()
        self._output = await self.process.reader(self.process.stdout)
        self._listening = asyncio.create_task(self._listen(await self.process.reader(self.process.stderr)))
        answer = await self.ask(load, frames.TRACE_LIMIT * 64)
        if isinstance(answer, Failed):
            raise ConfigError(f"{load.function} cannot be loaded: {answer.reason}")
        if not isinstance(answer, Loaded):
            raise WorkerDied("it answered out of turn")
        self.loaded = answer

    async def ask(self, frame: Frame, limit: int) -> Frame:
        """Send a frame and wait for the answer of at most `limit` bytes; raises WorkerDied."""
        try:
            self._input.write(frames.encode(frame))
            await self._input.drain()
            header = await self._output.readexactly(frames.HEADER.size)
            return frames.decode(await self._output.readexactly(frames.body_length(header, limit)))
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            code = await self.process.ended()
            raise WorkerDied(f"exit code {code} {self.complaints}".strip()) from error
        except WireError as error:
            raise WorkerDied(str(error)) from error

    @property
    def complaints(self) -> str:
        """The end of what it wrote to stderr."""
        return readable(self._complaints, cut=False).strip()

    async def close(self) -> None:
        """Kill it with all it started."""
        await self.process.kill()
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)

    async def _listen(self, stderr: asyncio.StreamReader) -> None:
        while chunk := await stderr.read(COMPLAINT_BYTES):
            self._complaints = (self._complaints + chunk)[-COMPLAINT_BYTES:]


class PythonExecutor:
    """Runs one function in up to `concurrency` workers, the first of which is warm from the start."""

    def __init__(self, name: str, tool: PythonTool, folder: str, refusal: str | None) -> None:
        """`folder` is where the module may lie; `refusal` says why there is no sandbox, None where there is one."""
        self._name = name
        self._tool = tool
        self._load = Load(function=tool.function, folder=folder)
        self._refusal = refusal if tool.sandbox else None
        self._gate = Gate(tool.concurrency)
        self._idle: list[Worker] = []
        self._workers: set[Worker] = set()
        self._warming: set[asyncio.Task[None]] = set()
        self._closed = False
        self._environment: dict[str, str] = {}

    async def open(self) -> Offer:
        """Start a worker and take the tool's schema from it; raises ConfigError."""
        where = f"tools.{self._name}"
        self._environment = environment_of(self._tool, f"{where}.environment")
        loaded = Loaded(description="", parameters=None)
        if self._refusal is None:
            try:
                async with asyncio.timeout(START_TIMEOUT_S):
                    worker = await self._start(low=False)
            except WorkerDied as error:
                raise ConfigError(f"{where}.function cannot be loaded, its worker died: {error}") from error
            except TimeoutError as error:
                raise ConfigError(f"{where}.function takes more than {START_TIMEOUT_S:g} s to import") from error
            except ConfigError as error:
                raise ConfigError(f"{where}.function: {error}") from error
            loaded = worker.loaded
            self._idle.append(worker)
        return Offer(self._info(loaded, where), where)

    def _info(self, loaded: Loaded, where: str) -> ToolInfo:
        parameters = self._tool.parameters
        if parameters is None and loaded.parameters is not None:
            parameters = json.loads(loaded.parameters)
        if parameters is None and loaded.reason:
            raise ConfigError(f"{where}: {self._tool.function} has no schema ({loaded.reason}); give its parameters")
        return ToolInfo(
            name=self._name,
            description=self._tool.description or loaded.description,
            parameters=parameters or ANY_OBJECT,
            policy=self._tool,
            kind="python",
        )

    async def close(self) -> None:
        """Kill all workers."""
        self._closed = True
        for task in self._warming:
            task.cancel()
        await asyncio.gather(*self._warming, return_exceptions=True)
        await asyncio.gather(*(worker.close() for worker in list(self._workers)))
        self._workers.clear()
        self._idle.clear()

    def check(self, arguments: Arguments) -> None:
        """The schema says it all."""

    def launch(self, call: ToolCall, *, speculative: bool) -> TaskRun:
        """Run the function."""
        body = functools.partial(self._run, call.arguments)
        return TaskRun(self._name, body, gate=self._gate, timeout_s=self._tool.timeout_s, speculative=speculative)

    async def _run(self, arguments: Arguments, run: TaskRun) -> Outcome:
        if self._refusal is not None:
            return Outcome(failure="unavailable", content=f"{self._name} runs only in a sandbox: {self._refusal}")
        try:
            worker = await self._take(run)
        except (ConfigError, WorkerDied, OSError) as error:
            return Outcome(failure="unavailable", content=f"{self._name} has no worker: {error}")
        whole = False
        try:
            outcome = await self._call(worker, arguments)
            whole = outcome.failure is None
            return outcome
        finally:
            run.on_promote = None
            if whole:
                worker.process.set_low(False)
                self._idle.append(worker)
            else:
                self._workers.discard(worker)
                self._warm()
                await worker.close()

    async def _call(self, worker: Worker, arguments: Arguments) -> Outcome:
        limit = self._tool.output_limit
        call = Call(arguments=canonical(arguments), limit=limit)
        watch = worker.process.watch(self._tool.memory_limit, self._tool.processes)
        try:
            answer = await within(worker.ask(call, 2 * limit + 2 * frames.TRACE_LIMIT), watch)
        except Overrun as overrun:
            return Outcome(failure="crashed", content=f"{self._name} was stopped: {overrun}")
        except WorkerDied as error:
            return Outcome(failure="crashed", content=f"the worker of {self._name} died: {error}")
        if not isinstance(answer, Returned):
            return Outcome(failure="crashed", content=f"the worker of {self._name} answered out of turn")
        if answer.trace:
            logger.warning("%s raised an exception\n%s", self._name, answer.trace)
        return Outcome(
            content=answer.content,
            is_error=answer.is_error,
            truncated=answer.truncated,
            structured=json.loads(answer.structured) if answer.structured is not None else None,
        )

    async def _take(self, run: TaskRun) -> Worker:
        while self._idle:
            worker = self._idle.pop()
            if worker.process.alive:
                run.on_promote = functools.partial(worker.process.set_low, False)
                worker.process.set_low(run.speculative)
                return worker
            self._workers.discard(worker)
            await worker.close()
        return await self._start(low=run.speculative, run=run)

    async def _start(self, *, low: bool, run: TaskRun | None = None) -> Worker:
        argv = [sys.executable, "-P", "-m", "sglang_paste.execute.worker"]
        if self._tool.sandbox:
            argv = wrap(argv, Confinement.of(self._tool, self._load.folder))
        folder = None if self._tool.sandbox else self._tool.workspace
        worker = Worker(
            Process(argv, environment=self._environment, folder=folder, low=low, confined=self._tool.sandbox)
        )
        self._workers.add(worker)
        if run is not None:
            run.on_promote = functools.partial(worker.process.set_low, False)
        try:
            await worker.open(self._load)
        except BaseException:
            self._workers.discard(worker)
            await worker.close()
            raise
        return worker

    def _warm(self) -> None:
        """Replace a worker that was lost, so that the next call finds one warm."""
        if self._closed or self._idle or self._warming:
            return
        task = asyncio.create_task(self._warm_one())
        self._warming.add(task)
        task.add_done_callback(self._warming.discard)

    async def _warm_one(self) -> None:
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                self._idle.append(await self._start(low=False))
        except (ConfigError, WorkerDied, OSError, TimeoutError) as error:
            logger.warning("no worker could be started for %s: %s", self._name, error)
