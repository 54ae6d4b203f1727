"""Starts of the real launcher with the flag on: those that serve, and those that must not."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from tiny_server import TinyServer, tiny_server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

ON = "--enable-tool-speculation"

WRONG_ROW = """
import sys
from sglang_paste.patches import table
if ("--multiprocessing-fork" in sys.orig_argv) is {in_child}:
    target = "sglang.srt.managers.{where}"
    row = table.Hook(target=target, kind="after", roles=({role!r},), signature="()", function="launch:add_flags")
    table.HOOKS += (row,)
"""

REFUSING_SERVICE = """
import sys, types
from sglang_paste.errors import ConfigError
service = types.ModuleType("sglang_paste.speculate.service")
def main(settings):
    raise ConfigError("the MCP server 'web' cannot be reached")
service.main = main
sys.modules["sglang_paste.speculate.service"] = service
"""


def refused(tmp_path: Path, code: str | None = None, *arguments: str, within: float) -> str:
    """The last line of a server that must end by itself with exit code 2; `code` runs in each of its processes."""
    variables = {}
    if code is not None:
        (tmp_path / "sitecustomize.py").write_text(code)
        variables["PYTHONPATH"] = str(tmp_path)
    state = ("--tool-state-dir", str(tmp_path)) if ON in arguments else ()
    server = TinyServer(tmp_path / "log", *arguments, *state, **variables)
    try:
        assert server.process.wait(within) == 2, server.tail()
        wait_until(lambda: not _left_behind(server.process.pid), "a process was left behind")
    except subprocess.TimeoutExpired:
        pytest.fail(f"the server did not end:\n{server.tail()}")
    finally:
        server.close()
    return server.tail().rstrip().splitlines()[-1]


def test_a_flag_without_the_switch(tmp_path: Path) -> None:
    sentence = refused(tmp_path, None, "--tool-config", "x", within=120)
    assert sentence.startswith(f"sglang-paste: --tool-config is given without {ON};")


@pytest.mark.parametrize(
    ("arguments", "variables", "named"),
    [
        (["--tokenizer-worker-num", "2"], {}, "--tokenizer-worker-num is 2"),
        ([], {"SGLANG_RUST_SERVER": "1"}, "SGLANG_RUST_SERVER is set"),
    ],
)
def test_what_goes_around_us_is_refused_by_name(
    arguments: list[str], variables: dict[str, str], named: str, tmp_path: Path
) -> None:
    server = TinyServer(tmp_path / "log", ON, *arguments, **variables)
    try:
        assert server.process.wait(120) == 2
        assert f"sglang-paste: {named}" in server.tail().splitlines()[-1]
    finally:
        server.close()


@pytest.mark.parametrize(
    ("role", "where", "in_child"),
    [
        ("main", "tokenizer_manager.TokenizerManager.no_such_method", False),
        ("scheduler", "scheduler.Scheduler.no_such_method", True),
        ("detokenizer", "detokenizer_manager.DetokenizerManager.no_such_method", True),
    ],
)
def test_a_wrong_hook_in_any_process_ends_the_start_with_one_sentence(
    role: str, where: str, in_child: bool, tmp_path: Path
) -> None:
    code = WRONG_ROW.format(role=role, where=where, in_child=in_child)
    sentence = refused(tmp_path, code, ON, within=300)
    assert sentence.startswith(f"sglang-paste: sglang.srt.managers.{where} is missing from the installed SGLang")


def test_a_side_process_that_cannot_use_its_configuration_ends_the_start(tmp_path: Path) -> None:
    sentence = refused(tmp_path, REFUSING_SERVICE, ON, within=300)
    assert sentence == "sglang-paste: the MCP server 'web' cannot be reached"


def test_yaml_ready_gateway_and_an_end_without_remains(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    settings = tmp_path / "server.yaml"
    settings.write_text(f"enable-tool-speculation: true\ntool-state-dir: {tmp_path}\napi-key: a secret\n")
    temporary = tmp_path_factory.getbasetemp().parent / f"t{os.getpid()}"
    temporary.mkdir()
    with tiny_server(tmp_path / "log", "--config", str(settings), TMPDIR=str(temporary)) as server:
        gateway = f"http://127.0.0.1:{server.port + 1}"
        with httpx.Client(base_url=gateway, trust_env=False, timeout=30) as client:
            assert client.get("/health").status_code == 200, "the server was ready before its gateway"
            assert client.get("/v1/tools").status_code == 401
            tools = client.get("/v1/tools", headers={"Authorization": "Bearer a secret"})
            assert tools.json() == {"tools": []}
        [side] = _side_processes(server.process.pid)
        assert b"a secret" not in Path(f"/proc/{side}/cmdline").read_bytes()
        assert b"a secret" not in Path(f"/proc/{side}/environ").read_bytes()
        os.kill(side, signal.SIGKILL)
        wait_until(lambda: _side_processes(server.process.pid) not in ([], [side]), "it did not come back")
        assert list(temporary.glob("sglang-paste-*/bus.sock"))
        server.process.terminate()
        server.process.wait(60)
    wait_until(lambda: not _left_behind(server.process.pid), "a process was left behind")
    assert list(temporary.glob("sglang-paste-*")) == []


def test_nothing_outlives_a_server_that_was_killed(tmp_path: Path) -> None:
    server = TinyServer(tmp_path / "log", ON, "--tool-state-dir", str(tmp_path))
    try:
        wait_until(lambda: bool(_side_processes(server.process.pid)), "no side process", seconds=200)
        server.process.kill()
        server.process.wait()
        wait_until(lambda: not _side_processes(server.process.pid), "the side process was left behind")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.process.pid, signal.SIGKILL)


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def _side_processes(server: int) -> list[int]:
    """The side processes of a server."""
    found = []
    for status in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = status.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"speculator" in words and str(server).encode() in words:
            found.append(int(status.parent.name))
    return found


def _left_behind(server: int) -> list[int]:
    """What is left of a server's session and of its side processes; zombies do not count."""
    left = _side_processes(server)
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[3] == str(server) and fields[0] != "Z":
            left.append(int(status.parent.name))
    return left
