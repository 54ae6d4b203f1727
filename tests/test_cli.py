"""The `sglang-paste` command."""

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import msgspec
import pytest

from sglang_paste import cli
from sglang_paste.config import Settings
from sglang_paste.errors import ConfigError, HookError
from sglang_paste.patches import check, serve

COMMANDS = ("serve", "check", "speculator", "tools", "mine", "eval", "timeline")


def settings(folder: Path) -> Settings:
    return Settings(
        tool_config=None, gateway_host="127.0.0.1", gateway_port=1, run_dir=str(folder), state_dir=str(folder)
    )


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """A side process that does nothing but note its settings."""
    noted: list[Settings] = []
    module = ModuleType("service")
    module.main = noted.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sglang_paste.speculate.service", module)
    monkeypatch.setattr(cli, "_die_with", lambda _parent: None)
    return noted


def feed(value: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(msgspec.json.encode(value))))


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["--help"])
    assert end.value.code == 0
    told = capsys.readouterr().out
    assert all(command in told for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS[1:])
def test_each_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([command, "--help"])
    assert end.value.code == 0
    assert f"sglang-paste {command}" in capsys.readouterr().out


def test_the_command_line_starts_light() -> None:
    heavy = "{'sglang', 'torch', 'zmq', 'mcp', 'anyio', 'sglang_paste.patches'}"
    code = f"import sys, sglang_paste.cli; print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"[]\n"


def test_the_plugin_loads_light() -> None:
    heavy = "{'sglang', 'torch', 'zmq', 'mcp', 'anyio', 'httpx', 'sglang_paste.speculate.supervisor'}"
    code = f"import sys, sglang_paste.patches as p; p.register(); print(sorted({heavy} & set(sys.modules)))"
    environment = {name: value for name, value in os.environ.items() if name != "SGLANG_USE_CPU_ENGINE"}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=environment)
    assert ran.stdout == b"[]\n"


@pytest.mark.host
def test_check_on_the_installed_sglang() -> None:
    command = [sys.executable, "-m", "sglang_paste.cli", "check", "--json"]
    told = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert {hook["status"] for hook in told["hooks"]} == {"ok"}


def test_check_fails_where_sglang_is_another(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check, "installed_version", lambda: "0.5.99")
    assert cli.main(["check"]) == 1
    assert "SGLang 0.5.99 is installed" in capsys.readouterr().out


@pytest.mark.parametrize("given", [[], ["--enable-tool-speculation"]])
def test_serve_switches_it_on_once(given: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(serve, "serve", lambda arguments: calls.append(list(arguments)) or 0)
    assert cli.main(["serve", "--model-path", "m", *given]) == 0
    assert calls == [["--model-path", "m", "--enable-tool-speculation"]]


def test_serve_checks_first(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(_hooks: object) -> None:
        raise HookError("a hook is missing")

    monkeypatch.setattr(check, "require", refuse)
    assert cli.main(["serve", "--model-path", "m"]) == 2
    assert capsys.readouterr().err == "sglang-paste: a hook is missing\n"


def test_the_speculator_takes_the_servers_settings(
    ran: list[Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = settings(tmp_path)
    feed(given, monkeypatch)
    assert cli.main(["speculator", "--settings", "-"]) == 0
    assert ran == [given]


def test_a_speculator_that_refuses_tells_the_server_and_the_operator(
    tmp_path: Path, ran: list[Settings], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(_settings: Settings) -> None:
        raise ConfigError("the port is taken")

    monkeypatch.setattr(sys.modules["sglang_paste.speculate.service"], "main", refuse)
    feed(settings(tmp_path), monkeypatch)
    assert cli.main(["speculator", "--settings", "-"]) == 2
    assert capsys.readouterr().err == "sglang-paste: the port is taken\n"
    assert (tmp_path / "speculator.refusal").read_text() == "the port is taken"


def test_the_speculator_alone(ran: list[Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "a secret")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    argv = ["speculator", "--port", str(port), "--state-dir", str(tmp_path / "s"), "--api-key-env", "TOKEN"]
    assert cli.main([*argv, "--budget", "3"]) == 0
    [made] = ran
    assert (made.gateway_host, made.gateway_port, made.budget, made.api_key) == ("127.0.0.1", port, 3, "a secret")
    assert made.state_dir == str(tmp_path / "s")
    assert Path(made.run_dir).is_dir()


def test_a_key_that_is_not_there_is_refused(
    ran: list[Settings], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TOKEN", raising=False)
    assert cli.main(["speculator", "--api-key-env", "TOKEN"]) == 2
    assert "--api-key-env names TOKEN, which is not set" in capsys.readouterr().err
    assert ran == []


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


CHILD = """
import os, signal, sys
from sglang_paste import cli
cli._die_with(int(sys.argv[1]))
print(os.getpid(), flush=True)
signal.pause()
"""


def test_the_side_process_dies_with_a_server_that_was_killed() -> None:
    parent = f"import os, subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}, str(os.getpid())])"
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        pid = int(server.stdout.readline())
        server.send_signal(signal.SIGKILL)
    wait_until(lambda: _state(pid) == "Z", "it was left behind")


def test_a_side_process_whose_server_is_gone_already_ends() -> None:
    ran = subprocess.run([sys.executable, "-c", CHILD, "1"], capture_output=True, timeout=60)
    assert (ran.returncode, ran.stdout) == (0, b"")


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"
