import asyncio
import json
import resource
import sys
import time
from pathlib import Path

import pytest
from tool_bench import Bench, eventually, launch

from sglang_paste.execute.catalog import Catalog
from sglang_paste.execute.process import FLOOD

HEAD = '[tools.t]\nkind = "command"\nparameters = {type = "object", properties = {a = {type = "string"}}}\n'


def tool(*argv: str, **settings: object) -> str:
    """A tools.toml with one command."""
    lines = [HEAD, f"argv = {_toml([item.replace('{', '{{').replace('}', '}}') for item in argv])}"]
    return "\n".join([*lines, *(f"{key} = {_toml(value)}" for key, value in settings.items())])


def python(code: str, **settings: object) -> str:
    """A tools.toml whose command is a Python program."""
    return tool(sys.executable, "-c", code, **settings)


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_toml(inner)}" for name, inner in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)


def test_output_is_the_result(bench: Bench) -> None:
    outcome = bench.once(tool("printf", "h\\303\\251\\n"), "t")
    assert (outcome.content, outcome.is_error, outcome.failure) == ("hé\n", False, None)
    assert 0 < outcome.duration < 30


def test_complaints_and_exit_code_are_shown_only_where_it_failed(bench: Bench) -> None:
    script = "echo out; echo err >&2; exit {}"
    assert bench.once(tool("sh", "-c", script.format(0)), "t").content == "out\n"
    outcome = bench.once(tool("sh", "-c", script.format(3)), "t")
    assert (outcome.content, outcome.is_error) == ("out\nerr\n[exit code 3]", True)
    assert not bench.once(tool("sh", "-c", script.format(3), success_codes=[0, 3]), "t").is_error
    assert bench.once(tool("sh", "-c", "echo err >&2"), "t").content == "err\n"
    assert bench.once(tool("sh", "-c", "kill -SEGV $$"), "t").content == "[killed by SIGSEGV]"


def test_bytes_that_are_no_text_are_replaced(bench: Bench) -> None:
    assert bench.once(tool("printf", "a\\377b\\000c"), "t").content == "a�b�c"


def test_big_arguments_go_in_by_stdin(bench: Bench) -> None:
    text = "é" * 700_000
    outcome = bench.once(tool("wc", "-c", stdin="{a}"), "t", a=text)
    assert outcome.content.strip() == str(len(text.encode()))


def test_an_output_is_cut_between_characters(bench: Bench) -> None:
    outcome = bench.once(tool("cat", stdin="{a}", output_limit=101), "t", a="é" * 100)
    assert (outcome.content, outcome.truncated, outcome.is_error) == ("é" * 50, True, False)


def test_a_gigabyte_of_output_is_stopped_in_bounded_memory(bench: Bench) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcome = bench.once(tool("sh", "-c", "yes | head -c 1000000000", output_limit=10_000), "t")
    assert outcome.truncated
    assert outcome.is_error
    assert outcome.content.startswith("y\ny\n")
    assert outcome.content.endswith(f"[stopped: it printed more than {FLOOD} bytes over its output limit]")
    assert len(outcome.content) < 11_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


def test_a_program_that_hangs_is_stopped(bench: Bench) -> None:
    outcome = bench.once(tool("sleep", "1000", timeout_s=0.3), "t")
    assert outcome.failure == "timeout"
    assert outcome.content == "t took more than 0.3 s and was stopped"


def test_cancel_returns_when_all_of_it_is_gone(bench: Bench) -> None:
    code = "import os, time\nprint(1, flush=True)\nif os.fork() == 0: os.setsid()\ntime.sleep(1000)"

    async def scenario(catalog: Catalog) -> None:
        run = launch(catalog, "t", speculative=True)
        await eventually(lambda: _running("time.sleep(1000)") >= 2)
        await asyncio.gather(run.cancel(), run.cancel())
        assert _running("time.sleep(1000)") == 0
        assert (await run.wait()).failure == "cancelled"
        await run.cancel()

    bench.use(python(code), scenario)


def test_a_daemon_dies_with_its_tool(bench: Bench) -> None:
    outcome = bench.once(tool("sh", "-c", "setsid sh -c 'exec sleep 98765' & echo started"), "t")
    assert outcome.content == "started\n"
    assert _running("sleep\0" + "98765") == 0


def test_a_fork_bomb_is_bounded(bench: Bench) -> None:
    outcome = bench.once(tool("sh", "-c", "b() { b | b & }; b; sleep 1000", processes=40, timeout_s=100), "t")
    assert outcome.is_error or outcome.failure
    assert outcome.failure != "timeout", "its processes were not what ended it"


def test_memory_is_bounded_for_one_process_and_for_all(bench: Bench) -> None:
    outcome = bench.once(python("x = bytearray(10**9)", memory_limit=10**8), "t")
    assert "MemoryError" in outcome.content
    spread = "import os, time\nfor _ in range(4): os.fork()\nx = b'x' * 50_000_000\ntime.sleep(60)"
    outcome = bench.once(python(spread, memory_limit=2 * 10**8), "t")
    assert "used more than 200000000 bytes of memory" in outcome.content


def test_nothing_of_the_host_is_visible(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("hidden")
    monkeypatch.setenv("API_TOKEN", "hidden")
    looks = f"import os\nprint(os.path.exists({str(secret)!r}), os.path.exists('/etc/shadow'), sorted(os.environ))"
    outcome = bench.once(python(looks), "t")
    assert outcome.content.split(" ", 2)[:2] == ["False", "False"]
    assert "API_TOKEN" not in outcome.content
    told = bench.once(python("import os; print(os.environ['T'])", environment={"T": "${API_TOKEN}"}), "t")
    assert told.content == "hidden\n"


def test_the_network_is_closed(bench: Bench) -> None:
    code = "import socket\nwith socket.create_connection(('127.0.0.1', {port}), 5): print('open')"

    async def scenario(network: bool) -> str:
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        catalog = bench.catalog(python(code.replace("{port}", str(port)), network=network))
        async with server:
            await catalog.open()
            outcome = await launch(catalog, "t").wait()
            await catalog.close()
        return outcome.content

    assert "ConnectionRefusedError" in asyncio.run(scenario(False))
    assert asyncio.run(scenario(True)) == "open\n"


def test_the_workspace_is_writable_only_for_a_write(bench: Bench) -> None:
    workspace = bench.folder / "work"
    workspace.mkdir()
    (workspace / "in.txt").write_text("in")
    script = ("sh", "-c", "cat in.txt && pwd && echo out > out.txt")
    reading = bench.once(tool(*script, workspace="work", effect="read"), "t")
    assert reading.is_error
    assert reading.content.startswith(f"in{workspace}\n")
    assert "Read-only file system" in reading.content
    assert not bench.once(tool(*script, workspace="work", effect="write"), "t").is_error
    assert (workspace / "out.txt").read_text() == "out\n"


def test_a_workspace_that_vanished_is_said(bench: Bench) -> None:
    (bench.folder / "work").mkdir()

    async def scenario(catalog: Catalog) -> None:
        (bench.folder / "work").rmdir()
        outcome = await launch(catalog, "t").wait()
        assert outcome.failure == "unavailable"
        assert "work" in outcome.content

    bench.use(tool("true", workspace="work"), scenario)


def test_without_a_sandbox_a_command_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr("shutil.which", lambda name, path=None: None if name == "bwrap" else f"/usr/bin/{name}")

    async def scenario(catalog: Catalog) -> None:
        outcome = await launch(catalog, "t").wait()
        assert outcome.failure == "unavailable"
        assert "install the package bubblewrap" in outcome.content
        assert "bubblewrap" in (catalog.why_not_early("t") or "")

    early = {"effect": "pure", "speculate": True, "observes": "local"}
    bench.use(tool("echo", "hi", **early), scenario)


def test_an_operator_can_do_without_a_sandbox_but_not_early(bench: Bench) -> None:
    async def scenario(catalog: Catalog) -> None:
        assert catalog.why_not_early("t") == "its sandbox is switched off"
        outcome = await launch(catalog, "t").wait()
        assert outcome.content == f"{bench.folder}\n"
        start = time.monotonic()
        run = launch(catalog, "t2")
        await eventually(lambda: _running("sleep\x0043210") == 1)
        await run.cancel()
        assert _running("sleep\x0043210") == 0
        assert time.monotonic() - start < 60

    early: dict[str, object] = {
        "effect": "pure",
        "speculate": True,
        "observes": "local",
        "sandbox": False,
        "workspace": ".",
    }
    second = tool("sh", "-c", "setsid sleep 43210; true", sandbox=False).replace("[tools.t]", "[tools.t2]")
    bench.use(f"{tool('pwd', **early)}\n{second}", scenario)


def _running(text: str) -> int:
    """How many processes have `text` in their command line; zombies have none."""
    count = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        count += text in line and "bwrap" not in line.split("\0")[0]
    return count
