"""Servers with the two-layer model, for tests in which its text does not matter."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from bench.ports import free_port

ROOT = Path(__file__).parents[2]
MODEL = ROOT / ".cache" / "models" / "tiny"


class TinyServer:
    """A server process with its log, from its launch on; it need not become ready."""

    def __init__(self, log: Path, *arguments: str, **variables: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        command = [
            *(sys.executable, "-W", "ignore", "-m", "sglang.launch_server", "--model-path", str(MODEL)),
            *("--load-format", "dummy", "--device", "cpu", "--port", str(self.port), "--log-level", "warning"),
            *("--random-seed", "1", "--max-total-tokens", "8192", "--mem-fraction-static", "0.4", "--sleep-on-idle"),
            *("--tool-call-parser", "hermes", "--skip-server-warmup", *arguments),
        ]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment(**variables),
                start_new_session=True,
            )

    def wait_healthy(self, seconds: float) -> None:
        """Return when it serves; fails where it ends before, or after so many seconds."""
        deadline = time.monotonic() + seconds
        while not self._healthy():
            assert self.process.poll() is None, f"the server ended:\n{self.tail()}"
            assert time.monotonic() < deadline, f"no server after {seconds} s:\n{self.tail()}"
            time.sleep(0.1)

    def tail(self) -> str:
        """The end of the log."""
        return self.log.read_text(errors="replace")[-3000:]

    def close(self) -> None:
        """Ask it to end; make it end."""
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def _healthy(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=10, trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False


@contextmanager
def tiny_server(log: Path, *arguments: str, **variables: str) -> Iterator[TinyServer]:
    """A server that is ready."""
    server = TinyServer(log, *arguments, **variables)
    try:
        server.wait_healthy(300)
        yield server
    finally:
        server.close()


def environment(**variables: str) -> dict[str, str]:
    """The environment of a server without a GPU, and without what this process may have inherited."""
    ours = {"SGLANG_USE_CPU_ENGINE": "1", "HF_HUB_OFFLINE": "1", **variables}
    return {name: value for name, value in os.environ.items() if not name.startswith("SGLANG_")} | ours
