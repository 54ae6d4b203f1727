"""The whole side process with real tools, real sockets and a fake engine: what goes wrong is said, counted, and
disturbs nothing else."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import httpx
import pytest

from sglang_paste.calls import DEFAULT_TENANT, SessionId
from sglang_paste.config import Settings
from sglang_paste.errors import ConfigError
from sglang_paste.events import CallReady
from sglang_paste.speculate.service import serve
from sglang_paste.wire.bus import EngineBus

DEADLINE = 60.0
KEY = "a-key"
HEADERS = {"authorization": f"Bearer {KEY}"}
SCHEMA = """
[tools.{0}.parameters]
type = "object"
properties = {{text = {{type = "string"}}}}
additionalProperties = false
"""
COMMANDS: dict[str, str] = {
    "say": 'argv = ["/bin/echo", "-n", "{text}"]',
    "hang": 'argv = ["sleep", "1000"]\ntimeout_s = 0.5',
    "die": 'argv = ["/bin/sh", "-c", \'kill -9 $$\']',
    "flood": 'argv = ["/bin/sh", "-c", \'yes | head -c 1000000000\']\noutput_limit = 1000',
    "garbage": 'argv = ["/bin/sh", "-c", \'printf "\\377\\376 ok"\']',
    "fail": 'argv = ["/bin/sh", "-c", \'echo no; exit 3\']',
}
COMMON = 'kind = "command"\ndescription = ""\neffect = "pure"\nobserves = "local"\nspeculate = true\n'
TOOLS = "".join(f"[tools.{name}]\n{COMMON}{lines}\n{SCHEMA.format(name)}" for name, lines in COMMANDS.items())

CRASH = """
[tools.crash]
kind = "python"
function = "crashing:crash"
effect = "pure"
observes = "local"
concurrency = 1
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    # pytest's own folders may be too long for a socket's path.
    with TemporaryDirectory(prefix="paste-") as path:
        yield Path(path)


def settings(folder: Path, tools: str | None = TOOLS, **rest: Any) -> Settings:
    config = None if tools is None else folder / "tools.toml"
    if config is not None and tools is not None:
        config.write_text(tools)
    run_dir = folder / "run"
    run_dir.mkdir(mode=0o700, exist_ok=True)
    values: dict[str, Any] = {"gateway_host": "127.0.0.1", "gateway_port": 0, "api_key": KEY} | rest
    return Settings(tool_config=config and str(config), run_dir=str(run_dir), state_dir=str(folder / "state"), **values)


class Port:
    def __init__(self) -> None:
        self.number = 0
        self.known = anyio.Event()

    def set(self, number: int) -> None:
        self.number = number
        self.known.set()


@contextlib.asynccontextmanager
async def served(values: Settings) -> AsyncIterator[httpx.AsyncClient]:
    port = Port()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_serve, values, port)
        with anyio.fail_after(DEADLINE):
            await port.known.wait()
        url = f"http://127.0.0.1:{port.number}"
        async with httpx.AsyncClient(base_url=url, headers=HEADERS, timeout=DEADLINE) as client:
            yield client
        tasks.cancel_scope.cancel()


async def _serve(values: Settings, port: Port) -> None:
    await serve(values, on_ready=port.set)


def check(main: Callable[[], Awaitable[None]]) -> None:
    anyio.run(main)


async def call(client: httpx.AsyncClient, tool: str, **body: Any) -> tuple[int, Any]:
    response = await client.post(f"/v1/tools/{tool}", json=body)
    return response.status_code, response.json()


async def count(client: httpx.AsyncClient, name: str) -> float:
    lines = (await client.get("/metrics")).text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    with anyio.fail_after(DEADLINE):
        met = await condition()
        while not met:
            await anyio.sleep(0.01)
            met = await condition()


def test_each_fault_is_said_and_disturbs_nobody(folder: Path) -> None:
    async def main() -> None:
        (folder / "crashing.py").write_text("import os\n\ndef crash() -> str:\n    os.kill(os.getpid(), 9)\n")
        async with served(settings(folder, TOOLS + CRASH)) as client:
            faults: dict[str, tuple[int, Any]] = {}

            async def one(name: str) -> None:
                faults[name] = await call(client, name, arguments={})

            async with anyio.create_task_group() as tasks:
                for name in ("hang", "crash", "die", "flood", "garbage", "fail"):
                    tasks.start_soon(one, name)
                for number in range(10):
                    status, answer = await call(client, "say", arguments={"text": f"ü {number}"})
                    assert (status, answer["content"], answer["outcome"]) == (200, f"ü {number}", "run")
            assert (faults["hang"][0], faults["hang"][1]["error"]["type"]) == (504, "tool_timed_out")
            assert (faults["crash"][0], faults["crash"][1]["error"]["type"]) == (502, "tool_crashed")
            # A program that was killed has still said what it said: a result that is an error.
            assert (faults["die"][0], faults["die"][1]["is_error"]) == (200, True)
            assert "SIGKILL" in faults["die"][1]["content"]
            status, flood = faults["flood"]
            assert (status, flood["truncated"]) == (200, True)
            assert len(flood["content"]) <= 2000
            assert faults["garbage"][1]["content"] == "\ufffd\ufffd ok"
            assert (faults["fail"][0], faults["fail"][1]["is_error"]) == (200, True)
            assert await count(client, 'paste_errors_total{type="tool_timed_out"}') == 1
            assert await count(client, 'paste_errors_total{type="tool_crashed"}') == 1

    check(main)


def test_wrong_requests_are_refused_and_counted(folder: Path) -> None:
    async def main() -> None:
        async with served(settings(folder)) as client:
            assert (await call(client, "sya", arguments={}))[0] == 404
            for arguments in ({"text": 1}, {"other": ""}):
                status, answer = await call(client, "say", arguments=arguments)
                assert (status, answer["error"]["type"]) == (400, "bad_arguments")
            wrong = await client.get("/v1/tools", headers={"authorization": "Bearer nobody"})
            assert wrong.status_code == 401
            for kind, number in {"unknown_tool": 1, "bad_arguments": 2, "unauthorized": 1}.items():
                assert await count(client, f'paste_errors_total{{type="{kind}"}}') == number
            assert (await call(client, "say", arguments={"text": "still here"}))[1]["content"] == "still here"

    check(main)


def test_a_call_of_the_engine_is_ready_when_the_client_asks(folder: Path) -> None:
    async def main() -> None:
        values = settings(folder)
        async with served(values) as client:
            with contextlib.closing(EngineBus(values.run_dir, "scheduler-0")) as engine:
                event = CallReady(
                    tenant=DEFAULT_TENANT,
                    session=SessionId("s1"),
                    request="r1",
                    position=7,
                    time=time.monotonic(),
                    index=0,
                    tool="say",
                    arguments=json.dumps({"text": "early"}),
                )

                async def announced() -> bool:
                    dropped = engine.dropped
                    engine.send([event])
                    return engine.dropped == dropped

                async def settled() -> bool:
                    return await count(client, "paste_tool_seconds_count") == 1

                await until(announced)
                await until(settled)
                status, answer = await call(client, "say", arguments={"text": "early"}, call_id="c1")
                assert (status, answer["content"], answer["outcome"]) == (200, "early", "reused")
                status, answer = await call(client, "say", arguments={"text": "early"}, call_id="c1")
                assert (status, answer["outcome"]) == (200, "replayed")
                assert (await client.get("/health")).json()["engine_alive"]
            spans = (await client.get("/v1/spans")).json()["spans"]
            assert {(span["lane"], span["outcome"]) for span in spans} >= {
                ("tool", "reused"),
                ("speculative", "claimed"),
            }

    check(main)


def test_what_was_answered_is_replayed_after_a_restart(folder: Path) -> None:
    async def main() -> None:
        for expected in ("run", "replayed"):
            async with served(settings(folder)) as client:
                status, answer = await call(client, "say", arguments={"text": "once"}, call_id="c1")
                assert (status, answer["content"], answer["outcome"]) == (200, "once", expected)

    check(main)


def test_it_stops_when_it_is_told_to(folder: Path) -> None:
    async def main() -> None:
        port = Port()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_serve, settings(folder, tools=None), port)
            with anyio.fail_after(DEADLINE):
                await port.known.wait()
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port.number}", headers=HEADERS) as client:
                assert (await client.get("/v1/tools")).json() == {"tools": []}
                os.kill(os.getpid(), signal.SIGTERM)

    check(main)


def test_what_cannot_be_served_is_refused(folder: Path) -> None:
    async def refusal(values: Settings) -> str:
        with anyio.fail_after(DEADLINE), pytest.raises(ConfigError) as found:
            await serve(values)
        return str(found.value)

    async def main() -> None:
        assert "nowhere.toml" in await refusal(
            Settings(
                tool_config=str(folder / "nowhere.toml"),
                gateway_host="127.0.0.1",
                gateway_port=0,
                run_dir=str(folder),
                state_dir=str(folder),
            )
        )
        assert "API key" in await refusal(settings(folder, None, gateway_host="10.1.1.1", api_key=None))
        with contextlib.closing(socket.socket()) as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            assert "another port" in await refusal(settings(folder, None, gateway_port=taken.getsockname()[1]))
        async with served(settings(folder, None)):
            assert "another side process" in await refusal(settings(folder, None))

    check(main)


@pytest.mark.chaos
@pytest.mark.timeout(400)
def test_kills_at_random_moments_break_no_promise() -> None:
    """The same as `python -m bench.chaos`, shorter."""
    done = chaos("--kills", "10")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.chaos
@pytest.mark.timeout(400)
def test_a_call_that_runs_twice_is_noticed() -> None:
    """Without call ids a retry runs the tool again; not every kill hits such a moment."""
    for _ in range(10):
        done = chaos("--kills", "4", "--without-ids")
        if done.returncode:
            break
    assert done.returncode == 1
    assert "broken" in done.stderr


def chaos(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench.chaos", *options]
    root = Path(__file__).parents[2]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=380, check=False)
