"""A started program with all that it starts: its pipes, its priority, its limits and its end."""

import asyncio
import codecs
import ctypes
import functools
import os
import signal
import subprocess
from collections.abc import Awaitable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from sglang_paste.execute.priority import LOWEST, NORMAL, children, descendants, set_nice, set_priority

CHUNK = 64 * 1024
FLOOD = 64 * 1024 * 1024
WATCH_INTERVAL_S = 0.05
PRIORITY_RETRY_S = 0.03
GRACE_S = 1.0
MAX_GENERATIONS = 32
PAGE = os.sysconf("SC_PAGESIZE")
PR_SET_CHILD_SUBREAPER = 36

T = TypeVar("T")
X = TypeVar("X", bound=asyncio.BaseTransport)
Y = TypeVar("Y", bound=asyncio.BaseProtocol)


class Overrun(Exception):
    """A run used more than it may; the message is the end of a sentence that begins with its name."""


class Process:
    """A program at the head of a session of its own."""

    def __init__(
        self, argv: Sequence[str], *, environment: Mapping[str, str], folder: str | None, low: bool, confined: bool
    ) -> None:
        """Start it; raises OSError where that cannot be done. `confined`: all it starts dies with it by itself."""
        self._confined = confined
        self._popen = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(environment),
            cwd=folder,
            start_new_session=True,
        )
        self.pid = self._popen.pid
        self.stdout = self._popen.stdout
        self.stderr = self._popen.stderr
        self._unused = [pipe for pipe in (self._popen.stdin, self.stdout, self.stderr) if pipe is not None]
        self._transports: list[asyncio.BaseTransport] = []
        self._low = False
        self._killing: asyncio.Task[int] | None = None
        self._gone = asyncio.get_running_loop().create_task(_ended(self.pid))
        self.set_low(low)

    async def reader(self, pipe: IO[bytes] | None) -> asyncio.StreamReader:
        """A stream over `stdout` or `stderr`, which buffers little."""
        reader = asyncio.StreamReader(limit=CHUNK)
        protocol = functools.partial(asyncio.StreamReaderProtocol, reader)
        await self._connect(pipe, asyncio.get_running_loop().connect_read_pipe(protocol, pipe))
        return reader

    async def writer(self) -> asyncio.StreamWriter:
        """A stream over `stdin`."""
        loop = asyncio.get_running_loop()
        pipe = self._popen.stdin
        transport, protocol = await self._connect(pipe, loop.connect_write_pipe(asyncio.streams.FlowControlMixin, pipe))
        return asyncio.StreamWriter(transport, protocol, None, loop)

    async def _connect(self, pipe: IO[bytes] | None, connecting: Coroutine[Any, Any, tuple[X, Y]]) -> tuple[X, Y]:
        """What a pipe is connected to; done to its end even when cancelled: some loops (uvloop) close the descriptor
        of a pipe they give up and leave its file open, which would then close a stranger's."""

        async def connect() -> tuple[X, Y]:
            transport, protocol = await connecting
            self._transports.append(transport)
            self._unused = [other for other in self._unused if other is not pipe]
            return transport, protocol

        return await finish(asyncio.ensure_future(connect()))

    @property
    def alive(self) -> bool:
        """The program has not ended."""
        return not self._gone.done()

    def set_low(self, low: bool) -> None:
        """Give the whole session the lowest OS priority, or the normal one."""
        if low == self._low:
            return
        self._low = low
        self._apply_priority()

    @property
    def _nice(self) -> int:
        return LOWEST if self._low else NORMAL

    def _apply_priority(self) -> None:
        if self.alive and not set_priority(self.pid, self._nice):
            asyncio.get_running_loop().call_later(PRIORITY_RETRY_S, self._apply_priority)

    async def ended(self) -> int:
        """Wait for the program's end; its exit code, negative for a signal."""
        await asyncio.shield(self._gone)
        return self._popen.wait()

    async def watch(self, memory_limit: int, processes: int) -> None:
        """Returns when the program ends; raises Overrun where it has, with all it started, grown past a limit.

        Gives all it starts its priority, too.
        """
        while self.alive:
            await asyncio.wait([self._gone], timeout=WATCH_INTERVAL_S)
            pids = descendants(self.pid, processes + 2)
            threads, resident = _usage(pids)
            if threads > processes:
                raise Overrun(f"it ran more than {processes} processes")
            if resident > memory_limit:
                raise Overrun(f"it used more than {memory_limit} bytes of memory")
            if self.alive:
                set_nice(pids, self._nice)

    async def kill(self) -> int:
        """Kill the program with all it started, and return when they are gone; how many are not. Idempotent."""
        if self._killing is None:
            self._killing = asyncio.get_running_loop().create_task(self._kill())
        return await finish(self._killing)

    async def _kill(self) -> int:
        below = descendants(self.pid)[1:] if self.alive and not self._confined else []
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        for pid in below:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await self.ended()
        survivors = await _reap_orphans(self.pid, frozenset(below))
        for transport in self._transports:
            transport.close()
        for pipe in self._unused:
            with suppress(OSError):
                pipe.close()
        return survivors


def adopt_orphans() -> None:
    """Become the parent of what tools leave behind, so that nothing escapes and nothing stays a zombie."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


async def finish(task: "asyncio.Future[T]") -> T:
    """The result of `task`, waited for to its end even when the waiting is cancelled."""
    cancelled = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
        except Exception:
            break
    if cancelled is not None:
        raise cancelled
    return task.result()


async def within(work: Awaitable[T], guard: Awaitable[None]) -> T:
    """The result of `work`, given up as soon as `guard` raises."""
    working = asyncio.ensure_future(work)
    guarding = asyncio.ensure_future(guard)
    try:
        await asyncio.wait({working, guarding}, return_when=asyncio.FIRST_COMPLETED)
        if guarding.done() and not working.done():
            guarding.result()
        return await working
    finally:
        for task in (working, guarding):
            task.cancel()
        await asyncio.gather(working, guarding, return_exceptions=True)


class Capture:
    """The beginning of an output."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept = bytearray()
        self._dropped = 0

    @property
    def truncated(self) -> bool:
        """There was more than is kept."""
        return self._dropped > 0

    @property
    def text(self) -> str:
        """What is kept: invalid UTF-8 and NUL replaced, no character cut in two."""
        return readable(bytes(self._kept), cut=self.truncated)

    async def drain(self, reader: asyncio.StreamReader) -> None:
        """Take in all of `reader`; what is over the limit is dropped, and Overrun raised past FLOOD bytes of it."""
        while chunk := await reader.read(CHUNK):
            room = self._limit - len(self._kept)
            self._kept += chunk[:room]
            self._dropped += max(0, len(chunk) - room)
            if self._dropped > FLOOD:
                raise Overrun(f"it printed more than {FLOOD} bytes over its output limit")


def readable(data: bytes, *, cut: bool) -> str:
    """`data` as text that any client can take; `cut` says that it may end within a character."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return decoder.decode(data, final=not cut).replace("\0", "\N{REPLACEMENT CHARACTER}")


async def communicate(
    process: Process, stdin: bytes, captures: tuple[Capture, Capture], limits: tuple[int, int]
) -> int:
    """Run a program to its end and return its exit code; raises Overrun.

    `captures` take its output and its complaints; `limits` are bytes of memory and processes.
    """
    streams = [await process.reader(process.stdout), await process.reader(process.stderr)]
    drains = [asyncio.create_task(capture.drain(stream)) for capture, stream in zip(captures, streams, strict=True)]
    watch = asyncio.create_task(process.watch(*limits))
    feed = asyncio.create_task(_feed(process, stdin))
    ended = asyncio.create_task(process.ended())
    pending: set[asyncio.Task[Any]] = {*drains, watch, feed, ended}
    try:
        while not ended.done():
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        drained, _ = await asyncio.wait(drains, timeout=GRACE_S)
        for task in drained:
            task.result()
        return ended.result()
    finally:
        for task in (*drains, watch, feed, ended):
            task.cancel()
        await asyncio.gather(*drains, watch, feed, ended, return_exceptions=True)


async def _feed(process: Process, data: bytes) -> None:
    writer = await process.writer()
    with suppress(ConnectionError):
        writer.write(data)
        await writer.drain()
    writer.close()


async def _ended(pid: int) -> None:
    fd = os.pidfd_open(pid)
    try:
        await _readable(fd)
    finally:
        os.close(fd)


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def resolve() -> None:
        loop.remove_reader(fd)
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(fd, resolve)
    try:
        await ready
    finally:
        loop.remove_reader(fd)


async def _reap_orphans(session: int, known: frozenset[int]) -> int:
    """Kill and reap what became our child when its leader died: the processes of its session and those `known` to be
    its own. How many would not die."""
    for _ in range(MAX_GENERATIONS):
        orphans = [pid for pid in children(os.getpid()) if pid in known or _session(pid) == session]
        if not orphans:
            return 0
        for pid in orphans:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with suppress(TimeoutError):
            async with asyncio.timeout(GRACE_S):
                await asyncio.gather(*map(_ended, orphans), return_exceptions=True)
        _reap(orphans)
    return len(orphans)


def _reap(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _session(pid: int) -> int:
    with suppress(OSError):
        return os.getsid(pid)
    return 0


def _usage(pids: Iterable[int]) -> tuple[int, int]:
    """Threads and resident bytes of these processes."""
    threads = resident = 0
    for pid in pids:
        with suppress(OSError, IndexError):
            fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
            threads += int(fields[17])
            resident += int(fields[21]) * PAGE
    return threads, resident
