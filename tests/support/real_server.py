"""A real server with tool speculation, for end-to-end tests."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec

from bench.ports import free_ports
from sglang_paste.mine.learn import Miner
from sglang_paste.mine.records import Call, Result, Session, Turn
from sglang_paste.predict import patternfile

ROOT = Path(__file__).parents[2]
MODEL = ROOT / ".cache" / "models" / "smollm2-135m"
TOKEN = "end-to-end"


class Server(msgspec.Struct, frozen=True):
    """A running server: where its API and its gateway are, and its main process."""

    port: int
    gateway_port: int
    pid: int
    workspace: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def gateway(self) -> str:
        return f"http://127.0.0.1:{self.gateway_port}"

    def is_serving_tools(self) -> bool:
        """Whether the gateway answers."""
        try:
            return httpx.get(f"{self.gateway}/health", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def tools(self) -> httpx.Client:
        """A client of the gateway."""
        return httpx.Client(base_url=self.gateway, headers={"authorization": f"Bearer {TOKEN}"}, timeout=60)


@contextmanager
def running_server(folder: Path, *arguments: str, **variables: str) -> Iterator[Server]:
    """A server with its state, tools and log in `folder`; more arguments and environment variables may be given."""
    port, gateway_port = free_ports(2)
    executions = folder / "executions"
    executions.mkdir()
    (executions / "lines.txt").touch()
    patterns = folder / "patterns"
    mine_habit(patterns)
    config = folder / "tools.toml"
    config.write_text(TOOLS.format(workspace=executions))
    command = [
        *(sys.executable, "-m", "sglang.launch_server", "--model-path", str(MODEL), "--device", "cpu"),
        *("--attention-backend", "paste_cpu", "--tool-call-parser", "hermes", "--api-key", TOKEN),
        *("--max-total-tokens", "16384", "--mem-fraction-static", "0.4", "--sleep-on-idle"),
        *("--port", str(port), "--log-level", "warning", "--skip-server-warmup", "--served-model-name", "default"),
        *("--enable-tool-speculation", "--tool-config", str(config), "--tool-gateway-port", str(gateway_port)),
        *("--tool-state-dir", str(folder / "state"), "--tool-patterns", str(patterns), "--enable-metrics"),
        *arguments,
    ]
    environment = {**os.environ, "SGLANG_USE_CPU_ENGINE": "1", "HF_HUB_OFFLINE": "1", **variables}
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
    try:
        running = Server(port, gateway_port, process.pid, executions)
        for url in (running.url, running.gateway):
            wait_for(lambda url=url: _healthy(process, url, log), seconds=600)  # type: ignore[misc]
        yield running
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def mine_habit(file: Path) -> None:
    """Patterns of agents who look at the last line whenever they have added one."""
    miner = Miner()
    for number in range(20):
        added, looked = Call("append_line", {"line": f"text {number}"}), Call("read_lines", {"count": 1})
        turns = (
            Turn("user", f"Add the line text {number} and look at the file."),
            Turn("assistant", "", (added,)),
            Turn("tool", tool_results=(Result("append_line", f"{number}"),)),
            Turn("assistant", "", (looked,)),
            Turn("tool", tool_results=(Result("read_lines", f"line {number}"),)),
            Turn("assistant", "Done."),
        )
        miner.add(Session("made up", str(number), f"task {number}", turns))
    patternfile.save(file, miner.finish())


def wait_for(ready: Callable[[], bool], *, seconds: float) -> None:
    """Return when `ready` says so; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"not ready within {seconds} s"
        time.sleep(0.05)


def _healthy(process: subprocess.Popen[bytes], url: str, log: Path) -> bool:
    assert process.poll() is None, "the server ended:\n" + "\n".join(log.read_text().splitlines()[-30:])
    try:
        return httpx.get(f"{url}/health", timeout=10).status_code == 200
    except httpx.HTTPError:
        return False


TOOLS = """
[tools.count_words]
kind = "command"
description = "Count the words of a text."
argv = ["sh", "-c", "seq 400000 | sort -r > /dev/null; printf %s \\"$1\\" | wc -w", "sh", "{{text}}"]
effect = "pure"
observes = "local"
speculate = true
inert = ["reason"]

[tools.count_words.parameters]
type = "object"
required = ["text", "reason"]
additionalProperties = false

[tools.count_words.parameters.properties]
text = {{ enum = ["one", "one two", "one two three"] }}
reason = {{ type = "string", maxLength = 60 }}

[tools.append_line]
kind = "command"
description = "Append a line to a file."
argv = ["sh", "-c", "echo \\"$1\\" >> lines.txt; wc -l < lines.txt", "sh", "{{line}}"]
workspace = "{workspace}"
effect = "write"
writes = ["lines"]
observes = "local"

[tools.append_line.parameters]
type = "object"
required = ["line"]
additionalProperties = false

[tools.append_line.parameters.properties]
line = {{ type = "string" }}

[tools.read_lines]
kind = "command"
description = "Read the last lines of the file."
argv = ["sh", "-c", "seq 400000 | sort -r > /dev/null; tail -n $1 lines.txt", "sh", "{{count}}"]
workspace = "{workspace}"
effect = "read"
reads = ["lines"]
observes = "local"
speculate = true

[tools.read_lines.parameters]
type = "object"
required = ["count"]
additionalProperties = false

[tools.read_lines.parameters.properties]
count = {{ enum = [1, 2] }}

[tools.list_numbers]
kind = "command"
description = "List the first numbers."
argv = ["seq", "{{up_to}}"]
effect = "pure"
observes = "local"

[tools.list_numbers.parameters]
type = "object"
required = ["up_to"]
additionalProperties = false

[tools.list_numbers.parameters.properties]
up_to = {{ enum = [200] }}
"""
