"""The server's side of the side process: start it, watch it, start it again, stop it."""

import enum
import logging
import os
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from sglang_paste.config import Settings
from sglang_paste.events import Ping
from sglang_paste.wire.bus import EngineBus

logger = logging.getLogger(__name__)

REFUSED = 2
SPECULATOR = "speculator"
TICK_S = 0.2
STOP_S = 5.0


def leave_refusal(run_dir: str, who: str, sentence: str) -> None:
    """Say why a process of this server refuses to start; its supervisor ends the server with that sentence."""
    draft = Path(run_dir, f"{who}.draft")
    draft.write_text(sentence)
    draft.rename(draft.with_suffix(".refusal"))


class Action(enum.Enum):
    """What is to be done now."""

    WAIT = enum.auto()
    START = enum.auto()
    KILL = enum.auto()


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds: the first and the longest pause before a new start, how long a run must last to count as sound, and how
    long a process may be silent before its first heartbeat and after it."""

    first_pause: float = 0.5
    longest_pause: float = 30.0
    sound: float = 60.0
    starting: float = 120.0
    silent: float = 15.0


class Supervision:
    """When to start a process and when to kill it. It is told what happens and never looks at a clock."""

    def __init__(self, patience: Patience | None = None) -> None:
        self.patience = patience or Patience()
        self.starts = 0
        self.refused = False
        self._running = False
        self._failures = 0
        self._start_at = 0.0
        self._started_at = 0.0
        self._silent_until = 0.0

    def decide(self, now: float) -> Action:
        """What to do at `now`."""
        if self._running:
            return Action.KILL if now >= self._silent_until else Action.WAIT
        return Action.START if now >= self._start_at and not self.refused else Action.WAIT

    def started(self, now: float) -> None:
        """The process was started."""
        self._running = True
        self.starts += 1
        self._started_at = now
        self._silent_until = now + self.patience.starting

    def heard(self, now: float) -> None:
        """A heartbeat came."""
        self._silent_until = now + self.patience.silent

    def ended(self, code: int, now: float) -> None:
        """The process is gone. A first start that ends with `REFUSED` is the operator's to mend."""
        self._running = False
        self.refused = self.starts == 1 and code == REFUSED
        self._failures = 1 if now - self._started_at >= self.patience.sound else self._failures + 1
        self._start_at = now + self.pause()

    def pause(self) -> float:
        """Seconds between the last end and the next start."""
        doublings = min(self._failures - 1, 32)
        return float(min(self.patience.first_pause * 2**doublings, self.patience.longest_pause))


class Supervisor:
    """Runs `command` with the settings as JSON on its standard input, from a thread of its own.

    `refusal` is the sentence why the server must not run, once there is one; then `refused` is called, once, from that
    thread.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        command: Sequence[str],
        refused: Callable[[], None],
        patience: Patience | None = None,
    ) -> None:
        self.refusal: str | None = None
        self._settings = settings
        self._command = list(command)
        self._refused = refused
        self._supervision = Supervision(patience)
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._settled = threading.Event()
        self._stopping = threading.Event()
        # Linux sends the death signal when the thread that started a process ends, so this one thread does it all.
        self._thread = threading.Thread(target=self._watch, name="side-process", daemon=True)

    @property
    def starts(self) -> int:
        """How often the process was started."""
        return self._supervision.starts

    @property
    def pid(self) -> int | None:
        """The process now running."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """Return when the process is gone. Idempotent."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def wait_ready(self, timeout: float) -> bool:
        """Whether the gateway answers; waits `timeout` seconds at most, and no longer than the first start lives. If
        that ends with a refusal, `refusal` has it by then."""
        self._settled.wait(timeout)
        if not self._ready and self.refusal is None:
            logger.warning("the tool gateway does not answer yet; the server starts without it")
        return self._ready

    def _watch(self) -> None:
        bus = EngineBus(self._settings.run_dir, "main")
        next_ping = 0.0
        try:
            while not self._stopping.wait(TICK_S if self._supervision.starts else 0):
                now = time.monotonic()
                self._step(bus, now)
                if now >= next_ping:
                    bus.send([Ping(sender="main", time=now, starts=self._supervision.starts)])
                    next_ping = now + 1.0
        finally:
            self._end()
            bus.close()

    def _step(self, bus: EngineBus, now: float) -> None:
        if bus.poll():
            self._supervision.heard(now)
        code = None if self._process is None else self._process.poll()
        if code is not None:
            self._process = None
            self._report(code, now)
        if self.refusal is None and (sentence := self._sentence()) is not None:
            self.refusal = sentence
            self._refused()
        if code is not None:
            # Only now: who waited must find the refusal, or be interrupted while it waits.
            self._settled.set()
        action = self._supervision.decide(now)
        if action is Action.START:
            self._start(now)
        elif action is Action.KILL and self._process is not None:
            logger.error("the side process (pid %d) does not answer and is killed", self._process.pid)
            self._process.kill()
        elif not self._settled.is_set() and self._answers():
            self._ready = True
            self._settled.set()

    def _start(self, now: float) -> None:
        self._supervision.started(now)
        try:
            # The settings hold the key, so they are neither on a command line nor in an environment.
            with tempfile.TemporaryFile(dir=self._settings.run_dir) as settings:
                settings.write(msgspec.json.encode(self._settings))
                settings.seek(0)
                # A session of its own: a Ctrl-C at the terminal is the server's to handle.
                self._process = subprocess.Popen(
                    self._command, stdin=settings, start_new_session=True, env=_environment()
                )
        except OSError as error:
            logger.error("the side process cannot be started (%s)", error)
            self._supervision.ended(1, now)

    def _report(self, code: int, now: float) -> None:
        self._supervision.ended(code, now)
        if not self._supervision.refused:
            logger.error(
                "the side process ended with %s; it is started again in %.1f s",
                _ending(code),
                self._supervision.pause(),
            )

    def _sentence(self) -> str | None:
        """What a process of this server has left as the reason why it must not run."""
        for file in Path(self._settings.run_dir).glob("*.refusal"):
            if file.stem != SPECULATOR or self._supervision.refused:
                return file.read_text(errors="replace")
        return "the side process refused to start; see the log above" if self._supervision.refused else None

    def _answers(self) -> bool:
        address = (self._settings.gateway_host, self._settings.gateway_port)
        try:
            socket.create_connection(address, timeout=TICK_S).close()
        except OSError:
            return False
        return True

    def _end(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _environment() -> dict[str, str]:
    """Ours, without the folder in which the server's processes share their metrics: the gateway has its own."""
    return {name: value for name, value in os.environ.items() if name.lower() != "prometheus_multiproc_dir"}


def _ending(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
