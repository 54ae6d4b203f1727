"""The way from this process to the side process."""

import asyncio
import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from sglang_paste.boundary import Tally
from sglang_paste.events import Draft, EngineDirective, Message, Ping
from sglang_paste.patches.arm import settings
from sglang_paste.wire.bus import EngineBus, EngineSide

HEARTBEAT_S = 1.0
MAX_INBOX = 4096
TALLY = Tally()


class BusSink:
    """Sends events from any thread; with them, once a second, a heartbeat that says what was lost and how loaded this
    process is (0 idle, 1 full). What comes back is kept until it is asked for, the newest where it is too much."""

    def __init__(self, name: str, bus: EngineSide, clock: Callable[[], float] = time.monotonic) -> None:
        self.load = 0.0
        self._name = name
        self._bus = bus
        self._clock = clock
        # The garbage collector may end a turn, which sends, while this very thread does.
        self._lock = threading.RLock()
        self._beat = 0.0
        self._inbox: deque[EngineDirective] = deque(maxlen=MAX_INBOX)
        self._wake: Callable[[], object] | None = None

    def send(self, events: Sequence[Message]) -> None:
        """Never waits for the side process."""
        with self._lock:
            now = self._clock()
            if now - self._beat >= HEARTBEAT_S:
                self._beat = now
                self._drain()
                events = [*events, self._ping(now, self._bus.dropped)]
            if events:
                self._bus.send(events)
            if self._wake is not None:
                # The socket tells of what came only once, and sending may have been when.
                self._drain()
                if self._inbox:
                    self._wake()

    def listen(self, loop: asyncio.AbstractEventLoop, take: Callable[[list[EngineDirective]], None]) -> None:
        """Have `take` called in `loop` with the directives that come, from now on."""

        def read() -> None:
            if directives := self.receive():
                take(directives)

        loop.add_reader(self._bus.fileno(), read)
        self._wake = functools.partial(loop.call_soon_threadsafe, read)
        loop.call_soon(read)

    def receive(self, *, drafts: bool = False) -> list[EngineDirective]:
        """The directives that came since the last call: those that foretell calls, or all others. Who asks often has a
        heartbeat without events."""
        if self._clock() - self._beat >= HEARTBEAT_S:
            self.send([])
        with self._lock:
            self._drain()
            if not self._inbox:
                return []
            directives = [each for each in self._inbox if isinstance(each, Draft) is drafts]
            left = [each for each in self._inbox if isinstance(each, Draft) is not drafts]
            self._inbox.clear()
            self._inbox += left
        return directives

    def _drain(self) -> None:
        self._inbox += [message for message in self._bus.poll() if isinstance(message, EngineDirective)]

    def _ping(self, now: float, dropped: int) -> Ping:
        return Ping(sender=self._name, time=now, dropped=dropped, unread=TALLY.unread, load=self.load)


_sink: BusSink | None = None


def sink(name: str) -> BusSink:
    """This process's way out; `name` is used by whoever asks first, who had better do so before there is something to
    send: what is sent while the connection is made is lost."""
    global _sink
    if _sink is None:
        _sink = BusSink(name, EngineBus(settings().run_dir, name))
    return _sink


def use(replacement: BusSink | None) -> None:
    """Put another sink in place, or None for a new one: for tests and tools."""
    global _sink
    _sink = replacement
