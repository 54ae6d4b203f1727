"""A side process of its own, for benchmarks and chaos: started, spoken to as the engine does, killed."""

import http.client
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.ports import free_port
from sglang_paste.calls import DEFAULT_TENANT, SessionId
from sglang_paste.config import Settings
from sglang_paste.events import CallReady, Message, Ping
from sglang_paste.wire.bus import EngineBus

START_S = 120.0


class SideProcess:
    """`sglang-paste speculator` over a folder that holds its tools.toml and keeps its state over restarts."""

    def __init__(self, folder: Path, tools: str, port: int | None = None) -> None:
        self.port = port or free_port()
        run_dir = folder / "run"
        run_dir.mkdir(mode=0o700, exist_ok=True)
        config = folder / "tools.toml"
        config.write_text(tools)
        self._settings = Settings(
            tool_config=str(config),
            gateway_host="127.0.0.1",
            gateway_port=self.port,
            run_dir=str(run_dir),
            state_dir=str(folder / "state"),
        )
        self._log = (folder / "side.log").open("ab")
        self._process: subprocess.Popen[bytes] | None = None
        self.engine = EngineBus(str(run_dir), "bench")

    def start(self) -> None:
        """Start the process, without waiting for it."""
        command = [sys.executable, "-m", "sglang_paste.cli", "speculator", "--settings", "-"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=self._log, stderr=self._log)
        if self._process.stdin is not None:
            with self._process.stdin as stdin:
                stdin.write(msgspec.json.encode(self._settings))

    def wait_ready(self) -> None:
        """Until it answers; raises RuntimeError where it ends instead."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                raise RuntimeError(f"the side process ended at start; see {self._log.name}")
            try:
                if self.ask("GET", "/health")[0] == 200:
                    return
            except OSError:
                time.sleep(0.02)
        raise RuntimeError(f"the side process does not answer; see {self._log.name}")

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, wait, and let go of everything."""
        self._end(signal.SIGTERM)
        self.engine.close()
        self._log.close()

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """One request on a connection of its own: status and JSON, or text where it is none."""
        connection = self.connect()
        try:
            return ask(connection, method, path, body)
        finally:
            connection.close()

    def connect(self, timeout: float = 60.0) -> http.client.HTTPConnection:
        """A connection to be kept."""
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def announce(self, tool: str, arguments: Sequence[dict[str, Any]], session: str) -> None:
        """What the engine says when a turn of `session` calls `tool` once for each of the arguments."""
        events: list[Message] = [
            CallReady(
                tenant=DEFAULT_TENANT,
                session=SessionId(session),
                request=f"{session}-{time.monotonic_ns()}",
                position=10,
                time=time.monotonic(),
                index=index,
                tool=tool,
                arguments=json.dumps(each),
            )
            for index, each in enumerate(arguments)
        ]
        self._send(events)

    def beat(self) -> None:
        """A heartbeat of the engine."""
        self._send([Ping(sender="bench", time=time.monotonic())])

    def _send(self, events: Sequence[Message]) -> None:
        deadline = time.monotonic() + 10
        dropped = self.engine.dropped
        self.engine.send(events)
        while self.engine.dropped > dropped and time.monotonic() < deadline:
            time.sleep(0.01)
            dropped = self.engine.dropped
            self.engine.send(events)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(30)
            self._process = None


def ask(connection: http.client.HTTPConnection, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """One request on a connection that is kept: status and JSON, or text where it is none."""
    data = None if body is None else json.dumps(body).encode()
    connection.request(method, path, data, {"content-type": "application/json"})
    response = connection.getresponse()
    text = response.read()
    is_json = response.headers.get("content-type", "").startswith("application/json")
    return response.status, json.loads(text) if is_json else text.decode()
