"""Events leave from any thread, with a heartbeat once a second."""

import threading

import pytest

from sglang_paste.calls import DEFAULT_TENANT, SessionId
from sglang_paste.events import Ping, SessionEnded
from sglang_paste.patches.bus import TALLY, BusSink
from sglang_paste.wire.memory import MemorySide

EVENT = SessionEnded(tenant=DEFAULT_TENANT, session=SessionId("s"), request="r", position=0, time=0.0)


class Line:
    """An engine's end that keeps what it is given."""

    def __init__(self) -> None:
        self.dropped = 3
        self.sent: list[object] = []

    def send(self, events: object) -> None:
        self.sent.extend(events)  # type: ignore[call-overload]

    def poll(self) -> list[object]:
        return []

    def close(self) -> None: ...


def test_a_heartbeat_goes_along_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TALLY, "slow", TALLY.slow + 2)
    now, line = [10.0], Line()
    sink = BusSink("api", line, lambda: now[0])  # type: ignore[arg-type,return-value]
    for now[0] in (10.0, 10.5, 11.0):
        sink.send([EVENT])
    beats = [item for item in line.sent if isinstance(item, Ping)]
    assert [(beat.sender, beat.time, beat.dropped) for beat in beats] == [("api", 10.0, 3), ("api", 11.0, 3)]
    assert {beat.unread for beat in beats} == {TALLY.unread} != {0}
    assert line.sent.count(EVENT) == 3


def test_threads_share_it() -> None:
    line = Line()
    sink = BusSink("api", line, lambda: 0.5)  # type: ignore[arg-type]
    threads = [threading.Thread(target=sink.send, args=([EVENT],)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert line.sent.count(EVENT) == 8


def test_the_memory_bus_fits() -> None:
    side = MemorySide()
    engine = side.connect("api")
    BusSink("api", engine).send([EVENT])
    engine.close()
    side.close()
