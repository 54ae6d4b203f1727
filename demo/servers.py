"""The demo's processes: two servers and a gateway; the engines get one core, the tools another."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import httpx
import msgspec
import psutil

from bench.ports import free_ports

HERE = Path(__file__).parent
TOKEN = "demo"  # noqa: S105 -- loopback only, for the length of the demo
START_SECONDS = 600
ENVIRONMENT = {
    "SGLANG_USE_CPU_ENGINE": "1",
    "HF_HUB_OFFLINE": "1",
    "DEMO_TOKEN": TOKEN,
    "OMP_NUM_THREADS": "1",
}
Control = Literal["same", "wasted"]


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """Where one side's model and tools are reached, and who tells what ran early."""

    name: str
    model_url: str
    tools_url: str
    spans_url: str


class Processes:
    """Starts programs on given cores with a log each, and ends them all with everything they started."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._logs.mkdir(parents=True, exist_ok=True)
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []

    def start(self, name: str, command: Sequence[str], environment: dict[str, str]) -> None:
        with (self._logs / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                process_group=0,
            )
        self._running.append((name, process))

    def pin(self, names: Sequence[str], core: int) -> None:
        """Bind the programs and all they have started to one core, but for those bound already."""
        everywhere = os.sched_getaffinity(0)
        for name, process in self._running:
            if name in names:
                parent = psutil.Process(process.pid)
                for each in (parent, *parent.children(recursive=True)):
                    for thread in each.threads():
                        if os.sched_getaffinity(thread.id) == everywhere:
                            os.sched_setaffinity(thread.id, {core})

    def wait_until_healthy(self, urls: Sequence[str], progress: Callable[[str], None]) -> None:
        """Return when every URL answers 200; raises RuntimeError with the log's end when a program ends first."""
        waiting, deadline = list(urls), time.monotonic() + START_SECONDS
        while waiting:
            missing = [url for url in waiting if not _answers(url)]
            if len(missing) < len(waiting):
                progress(f"{len(urls) - len(missing)} of {len(urls)} parts are up")
            waiting = missing
            for name, process in self._running:
                if process.poll() is not None:
                    raise RuntimeError(f"{name} ended with code {process.returncode}:\n{self._tail(name)}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{waiting[0]} did not answer within {START_SECONDS} s; see {self._logs}")
            time.sleep(1)

    def stop(self) -> None:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            for _, process in self._running:
                if process.poll() is None:
                    os.killpg(process.pid, sign)
            _wait_all([process for _, process in self._running], seconds=10)

    def _tail(self, name: str) -> str:
        return "\n".join((self._logs / f"{name}.log").read_text(errors="replace").splitlines()[-15:])


def start_sides(processes: Processes, model: Path, state: Path, control: Control | None) -> tuple[Side, Side]:
    """Stock SGLang with a plain tool gateway, and SGLang with tool speculation.

    With the control "same" the second side is stock SGLang, too; with "wasted" it speculates, but its agent takes the
    tools from the plain gateway, so that whatever runs early runs in vain.
    """
    core = str(max(os.sched_getaffinity(0)))
    model_port, tools_port, second_port, gateway_port = free_ports(4)
    config = ["--tool-config", str(HERE / "tools.toml")]
    serve = _serve_command(model)
    processes.start("stock", [*serve, "--port", str(model_port)], ENVIRONMENT)
    gateway = [sys.executable, "-m", "sglang_paste.cli", "speculator", *config, "--cpus", core]
    gateway += ["--port", str(tools_port), "--api-key-env", "DEMO_TOKEN", "--state-dir", str(state / "stock")]
    processes.start("stock-tools", gateway, ENVIRONMENT)
    second = [*serve, "--port", str(second_port)]
    if control != "same":
        second += ["--enable-tool-speculation", *config, "--tool-gateway-port", str(gateway_port)]
        second += ["--tool-cpus", core, "--tool-state-dir", str(state / "paste")]
    processes.start("paste", second, ENVIRONMENT)
    stock = Side(name="stock", model_url=_url(model_port), tools_url=_url(tools_port), spans_url=_url(tools_port))
    tools_url = stock.tools_url if control else _url(gateway_port)
    spans_url = stock.tools_url if control == "same" else _url(gateway_port)
    return stock, Side(name="paste", model_url=_url(second_port), tools_url=tools_url, spans_url=spans_url)


def _serve_command(model: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "sglang.launch_server", "--model-path", str(model), "--device", "cpu"),
        *("--attention-backend", "paste_cpu", "--tool-call-parser", "hermes", "--api-key", TOKEN),
        *("--max-total-tokens", "16384", "--mem-fraction-static", "0.4", "--sleep-on-idle"),
        *("--log-level", "warning"),
    ]


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def _wait_all(processes: Sequence[subprocess.Popen[Any]], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return
