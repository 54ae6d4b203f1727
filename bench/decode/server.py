"""The servers of the bench: the real model, each side with its own arguments, asleep while nothing is asked of them."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec

from bench.decode.plugin import PLUGIN as GIVEN
from bench.forced import PLUGIN as FORCED
from bench.forced.launch import ROOT, environment
from bench.ports import free_ports

MODEL = ROOT / ".cache" / "models" / "smollm2-135m"
OURS = "--enable-tool-speculation"
DEADLINE_S = 600.0


class Server(msgspec.Struct, frozen=True):
    """A running server."""

    side: str
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def is_healthy(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=10).status_code == 200
        except httpx.HTTPError:
            return False


@contextmanager
def servers(folder: Path, sides: dict[str, Sequence[str]]) -> Iterator[list[Server]]:
    """A server for each side and its arguments, started together. Raises SystemExit where one does not start."""
    processes: list[subprocess.Popen[bytes]] = []
    running: list[Server] = []
    try:
        for side, arguments in sides.items():
            own = folder / side
            own.mkdir()
            port, gateway = free_ports(2)
            command = [*_command(port), *arguments]
            plugins = [FORCED]
            if OURS in arguments:
                command += ["--tool-gateway-port", str(gateway), "--tool-state-dir", str(own / "state")]
                plugins.append(GIVEN)
            with (own / "log").open("wb") as log:
                inside = environment(own, *plugins)
                processes.append(
                    subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=inside)
                )
            running.append(Server(side, port, own / "log"))
        for server, process in zip(running, processes, strict=True):
            _wait_healthy(server, process)
        yield running
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            _end(process)


def _command(port: int) -> list[str]:
    return [
        *(sys.executable, "-W", "ignore", "-m", "sglang.launch_server", "--model-path", str(MODEL)),
        *("--device", "cpu", "--attention-backend", "paste_cpu", "--port", str(port), "--log-level", "warning"),
        *("--skip-server-warmup", "--sleep-on-idle", "--max-total-tokens", "24576", "--mem-fraction-static", "0.8"),
        *("--tool-call-parser", "hermes", "--max-running-requests", "64"),
    ]


def _wait_healthy(server: Server, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not server.is_healthy():
        if process.poll() is not None or time.monotonic() > deadline:
            end = server.log.read_text(errors="replace")[-2000:]
            raise SystemExit(f"the server {server.side} did not start; the end of its log:\n{end}")
        time.sleep(0.5)


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
