"""The launcher's flags and what they come to."""

import argparse
import os
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.ports import free_port
from sglang_paste.config import CommandTool, McpServer, Policy, ToolConfig
from sglang_paste.errors import ConfigError
from sglang_paste.patches import check, flags

EVERYWHERE = "0.0.0.0"  # noqa: S104


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(check, "require_version", lambda: None)
    monkeypatch.setattr(flags, "_bypasses", lambda _server_args: iter(()))


def server(port: int | None = None, **more: Any) -> SimpleNamespace:
    standard = {"api_key": None, "speculative_algorithm": None}
    standard |= {"disaggregation_mode": "null", "pp_size": 1, "enable_dp_attention": False}
    return SimpleNamespace(port=free_port() - 1 if port is None else port, **{**standard, **more})


def parse(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    flags.add_flags(parser)
    return parser.parse_args(argv)


def test_the_list_of_flags_is_what_the_parser_knows() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    flags.add_flags(parser)
    assert [action.option_strings[0] for action in parser._actions] == list(flags.FLAGS)


def test_all_flags_stand_under_one_heading() -> None:
    parser = argparse.ArgumentParser()
    flags.add_flags(parser)
    _, _, ours = parser.format_help().partition(f"{flags.HEADING}:")
    assert all(flag in ours for flag in flags.FLAGS)


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ([], False),
        (["--model-path", "m", "--tool-call-parser", "hermes", "--tool-server", "demo"], False),
        (["--enable-tool-speculation"], True),
        (["--tool-config=tools.toml"], True),
        (["-h"], True),
        (["--model-path", "--help"], True),
        (["--config"], False),
        (["--config", "/nowhere.yaml"], False),
    ],
)
def test_only_a_command_line_that_asks_for_us_is_answered(argv: list[str], expected: bool) -> None:
    assert flags.mentioned(argv) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("port: 1\ntool-call-parser: hermes\n", False), ("enable_tool_speculation: true\n", True), ("tool-cpus: 1", True)],
)
def test_a_yaml_file_counts_by_its_keys(tmp_path: Path, text: str, expected: bool) -> None:
    file = tmp_path / "server.yaml"
    file.write_text(text)
    assert flags.mentioned(["--config", str(file)]) is expected


def test_off_is_off() -> None:
    assert flags.read(parse(), server()) is None


@pytest.mark.parametrize("flag", flags.FLAGS[1:])
def test_a_flag_without_its_switch_is_refused(flag: str) -> None:
    with pytest.raises(ConfigError, match=f"{flag} is given without --enable-tool-speculation"):
        flags.read(parse(flag, "lru" if flag == "--tool-retention-policy" else "0"), server())


def test_the_defaults(tmp_path: Path) -> None:
    given = server()
    settings = flags.read(parse("--enable-tool-speculation"), given)
    assert settings is not None
    assert settings.tool_config is None
    assert (settings.gateway_host, settings.gateway_port) == ("127.0.0.1", given.port + 1)
    assert settings.state_dir == str(tmp_path / "state" / "sglang-paste" / str(given.port))
    assert (settings.budget, settings.api_key, settings.cpus, settings.inert) == (None, None, None, {})
    assert settings.session_memory == 256
    assert (settings.retention_budget, settings.retention_policy) == (0.8, "value")
    for folder in (settings.run_dir, settings.state_dir):
        assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700


def test_what_is_given_is_taken(tmp_path: Path) -> None:
    port = free_port()
    argv = ["--tool-gateway-host", "localhost", "--tool-gateway-port", str(port), "--tool-speculation-budget", "0"]
    argv += [
        "--tool-session-memory",
        "0",
        "--tool-retention-budget",
        "0.25",
        "--tool-retention-policy",
        "lru",
        "--tool-state-dir",
        str(tmp_path / "kept"),
        "--tool-cpus",
        str(min(os.sched_getaffinity(0))),
    ]
    given = server(19_999)
    given.api_key = "k"
    settings = flags.read(parse("--enable-tool-speculation", *argv), given)
    assert settings is not None
    assert (settings.gateway_host, settings.gateway_port, settings.budget) == ("localhost", port, 0)
    assert settings.session_memory == 0
    assert (settings.retention_budget, settings.retention_policy) == (0.25, "lru")
    assert settings.state_dir == str(tmp_path / "kept")
    assert settings.cpus == (min(os.sched_getaffinity(0)),)
    assert settings.api_key == "k"


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--tool-gateway-host", EVERYWHERE], f"listen on {EVERYWHERE} without a key; give --api-key"),
        (["--tool-gateway-host", "::"], "without a key"),
        (["--tool-gateway-host", "example.org"], "without a key"),
        (["--tool-speculation-budget", "-1"], "budget is -1"),
        (["--tool-session-memory", "-1"], "--tool-session-memory is -1"),
        (["--tool-retention-budget", "1.5"], "--tool-retention-budget is 1.5; give a share"),
        (["--tool-retention-budget", "-0.1"], "give a share of the cache from 0 to 1"),
        (["--tool-gateway-port", "19999"], "the server's own port"),
        (["--tool-gateway-port", "0"], "between 1 and 65535"),
        (["--tool-gateway-port", "70000"], "between 1 and 65535"),
        (["--tool-cpus", "1-"], "give cores as"),
        (["--tool-cpus", "4095"], "of which none can be used here"),
        (["--tool-state-dir", "/proc/nothing"], "cannot hold state"),
        (["--tool-config", "/nowhere/tools.toml"], "/nowhere/tools.toml"),
    ],
)
def test_what_cannot_be_used_is_refused(argv: list[str], sentence: str) -> None:
    given = server(19_999)
    if "--tool-gateway-port" not in argv:
        argv = [*argv, "--tool-gateway-port", str(free_port())]
    with pytest.raises(ConfigError, match=sentence):
        flags.read(parse("--enable-tool-speculation", *argv), given)


@pytest.mark.parametrize("how", [{"disaggregation_mode": "decode"}, {"pp_size": 2}, {"enable_dp_attention": True}])
def test_prompts_are_prefilled_ahead_by_the_scheduler_that_receives_them_alone(how: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="--tool-warm-slice is given with --"):
        flags.read(parse("--enable-tool-speculation", "--tool-warm-slice", "1024"), server(**how))
    assert flags.read(parse("--enable-tool-speculation"), server(**how)) is not None


def test_a_port_in_use_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"cannot listen on 127.0.0.1:{port} \(Address already in use\)"):
            flags.read(parse("--enable-tool-speculation"), server(port - 1))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost"])
def test_loopback(host: str) -> None:
    assert flags.is_loopback(host)


@pytest.mark.parametrize("host", [EVERYWHERE, "::", "10.0.0.1", "localhost.example.org", ""])
def test_not_loopback(host: str) -> None:
    assert not flags.is_loopback(host)


def test_cores_may_lie_outside_those_this_process_is_bound_to() -> None:
    allowed = os.sched_getaffinity(0)
    text = ",".join(map(str, sorted(allowed)))
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert flags.parse_cpus(text) == tuple(sorted(allowed))
    finally:
        os.sched_setaffinity(0, allowed)


def test_a_temporary_directory_with_a_long_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / ("x" * 90)))
    with pytest.raises(ConfigError, match="too long a name for a socket"):
        flags.make_run_dir()


def test_what_a_killed_server_left_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    # The directory that pytest gives has too long a name.
    with tempfile.TemporaryDirectory() as base:
        monkeypatch.setattr("tempfile.gettempdir", lambda: base)
        left, kept = (Path(base, f"sglang-paste-{pid}-x") for pid in (int(gone.stdout), os.getpid()))
        for folder in (left, kept):
            folder.mkdir()
            (folder / "bus.sock").touch()
        assert Path(flags.make_run_dir()).stat().st_mode & 0o777 == 0o700
        assert (left.exists(), kept.exists()) == (False, True)


def test_inert_arguments_go_by_the_name_a_tool_is_offered_under() -> None:
    config = ToolConfig(
        tools={"ls": CommandTool(argv=("ls",), inert=("why",)), "ps": CommandTool(argv=("ps",))},
        mcp={"web": McpServer(url="http://x", tools={"get": Policy(inert=("note", "why"))})},
    )
    assert flags.inert_arguments(config) == {"ls": ("why",), "web__get": ("note", "why")}
