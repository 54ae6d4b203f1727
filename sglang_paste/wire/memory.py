"""The bus without sockets, for tests: the same frames, the same bounds, in one process."""

import time
from collections.abc import Sequence

import anyio

from sglang_paste.errors import WireError
from sglang_paste.events import EngineDirective, Message, Ping
from sglang_paste.wire.frames import decode, encode


class MemorySide:
    """The side process's end; `connect` gives an engine's."""

    def __init__(self, queued_frames: int = 256) -> None:
        self.malformed = 0
        self.dropped = 0
        self.peers: dict[str, MemoryEngine] = {}
        self._send, self._receive = anyio.create_memory_object_stream[tuple[str, bytes]](queued_frames)

    def connect(self, name: str) -> "MemoryEngine":
        """An engine's end of this bus."""
        return self.peers.setdefault(name, MemoryEngine(self, name))

    def feed(self, name: str, frame: bytes) -> bool:
        """Put raw bytes on the bus; False where it is full or closed."""
        try:
            self._send.send_nowait((name, frame))
        except (anyio.WouldBlock, anyio.ClosedResourceError, anyio.BrokenResourceError):
            return False
        return True

    async def recv(self) -> tuple[str, list[Message]]:
        """The next frame's sender and messages; a bad frame is counted and dropped."""
        while True:
            name, frame = await self._receive.receive()
            try:
                return name, decode(frame)
            except WireError:
                self.malformed += 1

    def ping_all(self) -> None:
        """A heartbeat to every engine."""
        for peer in self.peers.values():
            peer.inbox.append(Ping(sender="speculator", time=time.monotonic()))

    def tell(self, directives: Sequence[EngineDirective], *, to: str = "") -> None:
        """Hand directives to every engine, or to those of one name."""
        for name, peer in self.peers.items():
            if to in ("", name):
                peer.inbox += directives

    def close(self) -> None:
        """Idempotent."""
        self._send.close()
        self._receive.close()


class MemoryEngine:
    """An engine's end of a MemorySide."""

    def __init__(self, side: MemorySide, name: str) -> None:
        self.dropped = 0
        self.inbox: list[Message] = []
        self._side = side
        self._name = name

    def send(self, events: Sequence[Message]) -> None:
        """As EngineBus.send."""
        sent = sum(frame.messages for frame in encode(events) if self._side.feed(self._name, frame.data))
        self.dropped += len(events) - sent

    def poll(self) -> list[Message]:
        """What the side process has sent since the last call."""
        messages, self.inbox = self.inbox, []
        return messages

    def fileno(self) -> int:
        """None: what comes is found by asking."""
        return -1

    def close(self) -> None:
        """Idempotent."""
        self._side.peers.pop(self._name, None)
