"""The way from this process to the side process."""

import threading
import time
from collections.abc import Callable, Sequence

from sglang_paste.boundary import Sink, Tally
from sglang_paste.events import Message, Ping
from sglang_paste.patches.arm import settings
from sglang_paste.wire.bus import EngineBus, EngineSide

HEARTBEAT_S = 1.0
TALLY = Tally()


class BusSink:
    """Sends events from any thread; with them, once a second, a heartbeat that says what was lost."""

    def __init__(self, name: str, bus: EngineSide, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._bus = bus
        self._clock = clock
        self._lock = threading.Lock()
        self._beat = 0.0

    def send(self, events: Sequence[Message]) -> None:
        """Never waits for the side process."""
        with self._lock:
            now = self._clock()
            if now - self._beat >= HEARTBEAT_S:
                self._beat = now
                self._bus.poll()
                events = [*events, self._ping(now, self._bus.dropped)]
            self._bus.send(events)

    def _ping(self, now: float, dropped: int) -> Ping:
        return Ping(sender=self._name, time=now, dropped=dropped, unread=TALLY.unread)


_sink: Sink | None = None


def sink(name: str) -> Sink:
    """This process's way out; `name` is used by whoever asks first, who had better do so before there is something to
    send: what is sent while the connection is made is lost."""
    global _sink
    if _sink is None:
        _sink = BusSink(name, EngineBus(settings().run_dir, name))
    return _sink


def use(replacement: Sink | None) -> None:
    """Put another sink in place, or None for a new one: for tests and tools."""
    global _sink
    _sink = replacement
