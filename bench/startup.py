"""`python -m bench.startup --model FOLDER`: seconds from launch to a healthy server, flag off and on, alternating."""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from bench.cpu import record
from bench.ports import free_ports

DEADLINE = 300
TOOLS = """
[tools.words]
kind = "command"
argv = ["wc", "-w"]
parameters = { type = "object" }
effect = "pure"
observes = "local"
speculate = true
"""


def start(model: Path, folder: Path, *, enabled: bool) -> float:
    """Seconds until the server is healthy, with the flag on its gateway as well; it is stopped again."""
    port, gateway = free_ports(2)
    config = folder / "tools.toml"
    config.write_text(TOOLS)
    command = [
        *(sys.executable, "-m", "sglang.launch_server", "--model-path", str(model), "--load-format", "dummy"),
        *("--device", "cpu", "--attention-backend", "paste_cpu", "--tool-call-parser", "hermes"),
        *("--max-total-tokens", "8192", "--mem-fraction-static", "0.4", "--sleep-on-idle", "--port", str(port)),
    ]
    if enabled:
        command += ["--enable-tool-speculation", "--tool-config", str(config)]
        command += ["--tool-gateway-port", str(gateway), "--tool-state-dir", str(folder / "state")]
    urls = [f"http://127.0.0.1:{port}/health"] + ([f"http://127.0.0.1:{gateway}/health"] if enabled else [])
    environment = {**os.environ, "SGLANG_USE_CPU_ENGINE": "1", "HF_HUB_OFFLINE": "1"}
    began = time.perf_counter()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=environment)
    try:
        while not all(_healthy(url) for url in urls):
            if process.poll() is not None or time.perf_counter() - began > DEADLINE:
                raise SystemExit(
                    f"the server did not start; the end of its log:\n{(folder / 'log').read_text()[-2000:]}"
                )
            time.sleep(0.1)
        return time.perf_counter() - began
    finally:
        process.terminate()
        process.wait(60)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of a model's configuration and tokenizer")
    parser.add_argument("--rounds", type=int, default=3, help="starts of each kind (default %(default)s)")
    arguments = parser.parse_args()
    times: dict[bool, list[float]] = {False: [], True: []}
    with tempfile.TemporaryDirectory(prefix="sglang-paste-bench-") as folder:
        for number in range(2 * arguments.rounds):
            enabled = number % 2 == 1
            times[enabled].append(start(arguments.model, Path(folder), enabled=enabled))
            print(f"flag {'on ' if enabled else 'off'} {times[enabled][-1]:6.1f} s", flush=True)
    more = statistics.median(on - off for off, on in zip(times[False], times[True], strict=True))
    print(f"with the flag on, median of {arguments.rounds} pairs: {more:+.1f} s")
    spreads = {name: record.spread(times[on]) for name, on in (("off", False), ("on", True))}
    record.append("startup", {"model": arguments.model.name, "more_s": more, **spreads})
    return 0


def _healthy(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


if __name__ == "__main__":
    sys.exit(main())
