"""Servers that a bench starts together and ends again."""

import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec

DEADLINE_S = 600.0


class Launch(msgspec.Struct, frozen=True):
    """A server to be started: its side, its port, where it logs to, what is run and in which environment."""

    side: str
    port: int
    log: Path
    command: Sequence[str]
    environment: Mapping[str, str]


@contextmanager
def launched(launches: Sequence[Launch]) -> Iterator[list[int]]:
    """The processes of these servers, once all are healthy. Raises SystemExit where one does not start."""
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for each in launches:
            with each.log.open("wb") as log:
                processes.append(
                    subprocess.Popen(
                        each.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=each.environment
                    )
                )
        for each, process in zip(launches, processes, strict=True):
            _wait_healthy(each, process)
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            _end(process)


def _wait_healthy(launch: Launch, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not _is_healthy(launch.port):
        if process.poll() is not None or time.monotonic() > deadline:
            end = launch.log.read_text(errors="replace")[-2000:]
            raise SystemExit(f"the server {launch.side} did not start; the end of its log:\n{end}")
        time.sleep(0.5)


def _is_healthy(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=10).status_code == 200
    except httpx.HTTPError:
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
