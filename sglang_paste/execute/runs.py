"""A run as a task: it waits its turn, is bounded in time, and always ends in an outcome."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

import msgspec

from sglang_paste.execute.base import Outcome

logger = logging.getLogger(__name__)


class Gate:
    """How many runs of a tool go on at once. Authoritative ones go in before speculative ones."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: list[tuple[TaskRun, asyncio.Future[None]]] = []

    async def enter(self, run: "TaskRun") -> None:
        """Wait for a place."""
        if self._free > 0:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (run, turn)
        self._waiting.append(entry)
        try:
            await turn
        except asyncio.CancelledError:
            if entry in self._waiting:
                self._waiting.remove(entry)
            elif not turn.cancelled():
                self.leave()
            raise

    def leave(self) -> None:
        """Give the place back, to whoever is next; who was cancelled but has not noticed yet wants none."""
        waiting = [each for each in self._waiting if not each[1].done()]
        if not waiting:
            self._free += 1
            return
        entry = min(waiting, key=lambda each: each[0].speculative)
        self._waiting.remove(entry)
        entry[1].set_result(None)


class TaskRun:
    """A run of `body`, which returns the outcome and leaves nothing behind when it is cancelled."""

    def __init__(
        self,
        tool: str,
        body: Callable[["TaskRun"], Awaitable[Outcome]],
        *,
        gate: Gate,
        timeout_s: float,
        speculative: bool,
    ) -> None:
        self.speculative = speculative
        self.on_promote: Callable[[], None] | None = None
        self._tool = tool
        self._body = body
        self._gate = gate
        self._timeout_s = timeout_s
        self._cancelled = False
        self._task = asyncio.create_task(self._run(), name=f"run {tool}")

    async def wait(self) -> Outcome:
        """The outcome, as often as it is asked for."""
        await asyncio.wait([self._task])
        if self._task.cancelled():
            return Outcome(failure="cancelled", content=f"{self._tool} was cancelled")
        return self._task.result()

    def when_done(self, act: Callable[[], None]) -> None:
        """Call `act` when the outcome is there."""
        self._task.add_done_callback(lambda _: act())

    def promote(self) -> None:
        """Make it an authoritative run: normal priority, and first in the queue."""
        self.speculative = False
        if self.on_promote is not None:
            self.on_promote()

    async def cancel(self) -> None:
        """Stop it, and return when all of it is gone."""
        if not self._cancelled:
            self._cancelled = True
            self._task.cancel()
        await asyncio.wait([self._task])

    async def _run(self) -> Outcome:
        await self._gate.enter(self)
        start = time.monotonic()
        try:
            outcome = await self._bounded()
        finally:
            self._gate.leave()
        return msgspec.structs.replace(outcome, duration=time.monotonic() - start)

    async def _bounded(self) -> Outcome:
        try:
            async with asyncio.timeout(self._timeout_s) as limit:
                return await self._body(self)
        except TimeoutError:
            if limit.expired():
                return Outcome(
                    failure="timeout", content=f"{self._tool} took more than {self._timeout_s:g} s and was stopped"
                )
            logger.exception("the run of %s failed", self._tool)
        except Exception:
            logger.exception("the run of %s failed", self._tool)
        return Outcome(
            failure="crashed", content=f"the run of {self._tool} failed; the log of the side process says why"
        )
