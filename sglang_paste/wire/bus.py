"""The bus between the engine's processes and the side process: DEALERs to one ROUTER over ipc.

Nothing here ever waits for the other side. A full or absent peer means that messages are dropped and counted.
"""

import asyncio
import fcntl
import os
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

import zmq
import zmq.asyncio

from sglang_paste.errors import ConfigError, WireError
from sglang_paste.events import EngineDirective, Message, Ping
from sglang_paste.wire.frames import MAX_FRAME_BYTES, decode, encode

QUEUED_FRAMES = 4096
MAX_PEERS = 64
# The transport cuts off a peer at this size, so that memory is bounded; what is below it is read and counted.
_HARD_FRAME_BYTES = 8 * MAX_FRAME_BYTES
_IPC_PATH_BYTES = 107


class EngineSide(Protocol):
    """What an engine process holds of the bus."""

    dropped: int

    def send(self, events: Sequence[Message]) -> None:
        """Hand over messages in order; never waits, never raises for the peer's state."""

    def poll(self) -> list[Message]:
        """What the side process has sent since the last call."""

    def fileno(self) -> int:
        """A descriptor that becomes readable when something came; read all of it then."""

    def close(self) -> None:
        """Idempotent."""


class Side(Protocol):
    """What the side process holds of the bus."""

    malformed: int
    dropped: int

    async def recv(self) -> tuple[str, list[Message]]:
        """The next frame's sender and messages; a bad frame is counted and dropped."""

    def ping_all(self) -> None:
        """A heartbeat to every peer that was heard from."""

    def tell(self, directives: Sequence[EngineDirective], *, to: str = "") -> None:
        """Hand directives to every peer that was heard from, or those of one name; never waits."""

    def close(self) -> None:
        """Idempotent."""


class EngineBus:
    """An engine process's end; `name` says which process it is. For one thread."""

    def __init__(self, settings_run_dir: str, name: str) -> None:
        self.dropped = 0
        self.malformed = 0
        address = _address(settings_run_dir)
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.setsockopt(zmq.ROUTING_ID, f"{name}.{os.getpid()}.{secrets.token_hex(4)}".encode())
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 50)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        _bound(self._socket)
        self._socket.connect(address)

    def send(self, events: Sequence[Message]) -> None:
        """Hand over messages in order, without waiting; what cannot be sent is dropped and counted."""
        self.dropped += len(events) - sum(frame.messages for frame in encode(events) if self._send(frame.data))

    def poll(self) -> list[Message]:
        """What the side process has sent since the last call."""
        messages: list[Message] = []
        while True:
            try:
                frame = self._socket.recv(zmq.NOBLOCK)
            except zmq.ZMQError:
                return messages
            try:
                messages += decode(frame)
            except WireError:
                self.malformed += 1

    def fileno(self) -> int:
        """A descriptor that becomes readable when something came; read all of it then."""
        return int(self._socket.getsockopt(zmq.FD))

    def close(self) -> None:
        """Drop what was not sent. Idempotent."""
        self._socket.close(linger=0)

    def _send(self, frame: bytes) -> bool:
        try:
            self._socket.send(frame, zmq.NOBLOCK)
        except zmq.ZMQError:
            return False
        return True


class SideBus:
    """The side process's end. One per run directory: a second one raises ConfigError."""

    def __init__(self, run_dir: str) -> None:
        self.malformed = 0
        self.dropped = 0
        address = _address(run_dir)
        self._lock = _lock(run_dir)
        self._peers: dict[bytes, None] = {}
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        # An unknown or full peer is an error here, so that it can be forgotten.
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.MAXMSGSIZE, _HARD_FRAME_BYTES)
        _bound(self._socket)
        try:
            self._socket.bind(address)
        except zmq.ZMQError as error:
            self.close()
            raise ConfigError(
                f"the bus cannot be opened in {run_dir!r} ({error}); choose another run directory"
            ) from error

    async def recv(self) -> tuple[str, list[Message]]:
        """The next frame's sender and messages; a malformed or oversized frame is counted and dropped."""
        while True:
            parts = await self._socket.recv_multipart()
            try:
                if len(parts) != 2:
                    raise WireError(f"a frame has {len(parts) - 1} parts; there must be one")
                messages = decode(parts[1])
            except WireError:
                self.malformed += 1
                continue
            self._remember(parts[0])
            return parts[0].decode(errors="replace").split(".", 1)[0], messages

    def ping_all(self) -> None:
        """A heartbeat to every peer that was heard from; a peer that is gone is forgotten."""
        self._send([Ping(sender="speculator", time=time.monotonic())])

    def tell(self, directives: Sequence[EngineDirective], *, to: str = "") -> None:
        """Hand directives to every peer that was heard from, or those of one name; what one cannot take is dropped and
        counted."""
        self.dropped += self._send(directives, f"{to}.".encode() if to else b"")

    def _send(self, messages: Sequence[Message], to: bytes = b"") -> int:
        """How many frames could not be sent; a peer that is gone is forgotten."""
        lost = 0
        for frame in encode(messages):
            for peer in [peer for peer in self._peers if peer.startswith(to)]:
                # With NOBLOCK the future is settled at once.
                sent: asyncio.Future[Any] = self._socket.send_multipart([peer, frame.data], flags=zmq.NOBLOCK)  # type: ignore[assignment]
                error = sent.exception()
                if isinstance(error, zmq.Again):
                    lost += 1
                elif isinstance(error, zmq.ZMQError):
                    del self._peers[peer]
        return lost

    def close(self) -> None:
        """Idempotent."""
        self._socket.close(linger=0)
        self._context.term()
        self._lock.close()

    def _remember(self, peer: bytes) -> None:
        self._peers.pop(peer, None)
        self._peers[peer] = None
        if len(self._peers) > MAX_PEERS:
            del self._peers[next(iter(self._peers))]


def _bound(socket: "zmq.Socket[bytes] | zmq.asyncio.Socket") -> None:
    socket.setsockopt(zmq.SNDHWM, QUEUED_FRAMES)
    socket.setsockopt(zmq.RCVHWM, QUEUED_FRAMES)
    socket.setsockopt(zmq.LINGER, 0)


def _address(run_dir: str) -> str:
    path = f"{run_dir}/bus.sock"
    if len(path.encode()) > _IPC_PATH_BYTES:
        raise ConfigError(f"the run directory {run_dir!r} is too long for a socket's path; choose one under 98 bytes")
    return f"ipc://{path}"


def _lock(run_dir: str) -> TextIO:
    """The open lock file of `run_dir`, a directory that is ours alone."""
    folder = Path(run_dir)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        raise ConfigError(f"the run directory {run_dir!r} cannot be used ({error}); choose another") from error
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise ConfigError(f"the run directory {run_dir!r} is open to others; give it to this user with mode 0700")
    lock = (folder / "bus.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise ConfigError(
            f"another side process serves {run_dir!r}; stop it or choose another run directory"
        ) from error
    return lock
