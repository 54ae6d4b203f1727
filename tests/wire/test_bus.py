"""The bus over real sockets: order, loss that is counted, bad peers, restarts."""

import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import pytest
import zmq

from sglang_paste.errors import ConfigError
from sglang_paste.events import Message, Ping
from sglang_paste.wire.bus import EngineBus, SideBus
from sglang_paste.wire.frames import MAX_FRAME_BYTES
from sglang_paste.wire.memory import MemorySide

DEADLINE = 10.0


@pytest.fixture
def run_dir() -> Iterator[str]:
    # pytest's own folders may be too long for a socket's path.
    with TemporaryDirectory(prefix="paste-") as folder:
        yield folder


def ping(number: float) -> Ping:
    return Ping(sender="test", time=number)


async def connected(bus: EngineBus, side: SideBus) -> None:
    """Send until the first message is through."""
    with anyio.fail_after(DEADLINE):
        while True:
            before = bus.dropped
            bus.send([ping(-1)])
            if bus.dropped == before:
                break
            await anyio.sleep(0.001)
        await side.recv()


async def reconnected(bus: EngineBus, side: SideBus) -> None:
    """Send until a message is through; what goes to a peer that has just died is lost."""
    with anyio.fail_after(DEADLINE):
        arrived = False
        while not arrived:
            bus.send([ping(-2)])
            with anyio.move_on_after(0.05):
                await side.recv()
                arrived = True


async def polled(bus: EngineBus) -> list[Message]:
    with anyio.fail_after(DEADLINE):
        found = bus.poll()
        while not found:
            await anyio.sleep(0.001)
            found = bus.poll()
        return found


def test_messages_arrive_in_order_with_their_sender(run_dir: str) -> None:
    async def main() -> None:
        side = SideBus(run_dir)
        bus = EngineBus(run_dir, "scheduler-0")
        await connected(bus, side)
        for number in range(500):
            bus.send([ping(number), ping(number + 0.5)])
        received: list[Message] = []
        with anyio.fail_after(DEADLINE):
            while len(received) < 1000:
                name, messages = await side.recv()
                assert name == "scheduler-0"
                received += messages
        assert received == [ping(number / 2) for number in range(1000)]
        bus.close()
        side.close()

    anyio.run(main)


def test_an_absent_peer_costs_nothing_but_the_messages(run_dir: str) -> None:
    bus = EngineBus(run_dir, "scheduler-0")
    started = time.perf_counter()
    for number in range(1000):
        bus.send([ping(number)])
    assert time.perf_counter() - started < 1.0
    assert bus.dropped == 1000
    assert bus.poll() == []
    bus.close()
    bus.close()


def test_a_full_peer_costs_the_newest_messages(run_dir: str) -> None:
    async def main() -> None:
        side = SideBus(run_dir)
        bus = EngineBus(run_dir, "scheduler-0")
        await connected(bus, side)
        sender = "x" * 1000
        for number in range(50_000):
            bus.send([Ping(sender=sender, time=number)])
        assert 0 < bus.dropped < 50_000
        with anyio.fail_after(DEADLINE):
            assert await side.recv() == ("scheduler-0", [Ping(sender=sender, time=0.0)])
        bus.close()
        side.close()

    anyio.run(main)


def test_heartbeats_go_to_every_peer_that_was_heard(run_dir: str) -> None:
    async def main() -> None:
        side = SideBus(run_dir)
        buses = [EngineBus(run_dir, name) for name in ("scheduler-0", "tokenizer")]
        for bus in buses:
            await connected(bus, side)
        side.ping_all()
        for bus in buses:
            [found] = await polled(bus)
            assert isinstance(found, Ping)
            assert found.sender == "speculator"
        buses[0].close()
        with anyio.fail_after(DEADLINE):
            while len(side._peers) > 1:
                side.ping_all()
                await anyio.sleep(0.001)
        buses[1].close()
        side.close()

    anyio.run(main)


def test_bad_frames_are_counted_and_disturb_nobody(run_dir: str) -> None:
    async def main() -> None:
        side = SideBus(run_dir)
        bus = EngineBus(run_dir, "scheduler-0")
        await connected(bus, side)
        context = zmq.Context()
        stranger = context.socket(zmq.DEALER)
        stranger.setsockopt(zmq.LINGER, 0)
        stranger.connect(f"ipc://{run_dir}/bus.sock")
        for frame in (b"", b"\xff" * 100, b"\x91" * 50_000, b"x" * (MAX_FRAME_BYTES + 1)):
            stranger.send(frame)
        stranger.send_multipart([b"two", b"parts"])
        # Beyond the hard limit the transport drops the peer; it can't be counted, and it takes no memory.
        stranger.send(b"x" * (9 * MAX_FRAME_BYTES))
        with anyio.fail_after(DEADLINE):
            async with anyio.create_task_group() as tasks:

                async def listen() -> None:
                    while True:
                        name, messages = await side.recv()
                        if messages == [ping(2)]:
                            assert name == "scheduler-0"
                            return

                tasks.start_soon(listen)
                while side.malformed < 5:
                    bus.send([ping(1)])
                    await anyio.sleep(0.001)
                bus.send([ping(2)])
        assert side.malformed == 5
        stranger.close()
        context.term()
        bus.close()
        side.close()

    anyio.run(main)


def test_the_engine_outlives_a_restart_of_the_side_process(run_dir: str) -> None:
    async def main() -> None:
        side = SideBus(run_dir)
        bus = EngineBus(run_dir, "scheduler-0")
        await connected(bus, side)
        side.close()
        side.close()
        side = SideBus(run_dir)
        await reconnected(bus, side)
        bus.close()
        side.close()

    anyio.run(main)


def test_a_second_side_process_is_refused(run_dir: str) -> None:
    async def main() -> None:
        side = SideBus(run_dir)
        with pytest.raises(ConfigError, match="another side process"):
            SideBus(run_dir)
        side.close()

    anyio.run(main)


def test_a_run_directory_open_to_others_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with pytest.raises(ConfigError, match="open to others"):
        SideBus(str(tmp_path))


def test_a_run_directory_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    folder = str(tmp_path / ("x" * 120))
    with pytest.raises(ConfigError, match="too long"):
        EngineBus(folder, "scheduler-0")
    with pytest.raises(ConfigError, match="too long"):
        SideBus(folder)


def test_sending_is_cheap(run_dir: str) -> None:
    async def main() -> float:
        side = SideBus(run_dir)
        bus = EngineBus(run_dir, "scheduler-0")
        await connected(bus, side)
        times = []
        for number in range(2000):
            started = time.perf_counter()
            bus.send([ping(number)])
            times.append(time.perf_counter() - started)
        bus.close()
        side.close()
        return sorted(times)[len(times) // 2]

    # 20 µs is the promise; a shared test machine gets room.
    assert anyio.run(main) < 100e-6


def test_the_memory_bus_keeps_the_same_promises() -> None:
    async def main() -> None:
        side = MemorySide(queued_frames=2)
        bus = side.connect("scheduler-0")
        bus.send([ping(1), ping(2)])
        assert side.feed("stranger", b"\xff")
        bus.send([ping(3)])
        assert bus.dropped == 1
        assert await side.recv() == ("scheduler-0", [ping(1), ping(2)])
        bus.send([ping(4)])
        assert await side.recv() == ("scheduler-0", [ping(4)])
        assert side.malformed == 1
        side.ping_all()
        assert len(bus.poll()) == 1
        side.close()
        bus.send([ping(5)])
        assert bus.dropped == 2
        bus.close()

    anyio.run(main)
