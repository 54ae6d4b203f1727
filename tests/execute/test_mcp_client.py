import asyncio
import socket
import sys
from pathlib import Path

import mcp_tools
import pytest
from tool_bench import Bench, eventually, launch

from bench.ports import free_port
from sglang_paste.errors import ConfigError
from sglang_paste.execute.catalog import Catalog

SERVER = str(Path(mcp_tools.__file__))
STDIO = f'[mcp.probe]\ncommand = ["{sys.executable}", "{SERVER}", "stdio"]\n'
READ = '[mcp.probe.tools.{name}]\neffect = "read"\nobserves = "local"\nspeculate = true\n'


async def http_server(port: int) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(sys.executable, SERVER, "http", str(port))
    await eventually(lambda: _answers(port), 60)
    return process


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


async def exercise(catalog: Catalog, folder: Path) -> None:
    """What holds over any transport."""
    echo = catalog.tool("probe__echo")
    assert (echo.kind, echo.description) == ("mcp", "Say it again.")
    assert echo.hints == ("read-only", "not open world")
    assert "effect is write" in (catalog.why_not_early("probe__echo") or "")
    assert (await launch(catalog, "probe__echo", text="hé").wait()).content == "hé"
    point = await launch(catalog, "probe__point", x=3).wait()
    assert point.structured == {"x": 3}
    assert '"x"' in point.content
    fail = await launch(catalog, "probe__fail").wait()
    assert fail.is_error
    assert "bad é" in fail.content
    assert (await launch(catalog, "probe__picture").wait()).content == "before\n[image image/png, 6 bytes]"
    cut = await launch(catalog, "probe__echo", text="x" * 2_000_000).wait()
    assert cut.truncated
    assert len(cut.content) == 1024 * 1024
    noted = folder / "ended"
    run = launch(catalog, "probe__hang", path=str(noted))
    await asyncio.gather(
        launch(catalog, "probe__echo", text="meanwhile").wait(), launch(catalog, "probe__echo", text="").wait()
    )
    await run.cancel()
    assert (await run.wait()).failure == "cancelled"
    await eventually(noted.exists)


async def grow(catalog: Catalog) -> None:
    assert (await launch(catalog, "probe__grow").wait()).content == "ok"
    await eventually(lambda: any(tool.name == "probe__grown" for tool in catalog.tools()))
    assert (await launch(catalog, "probe__grown").wait()).content == "grown"


def test_over_stdio(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hidden")

    async def scenario(catalog: Catalog) -> None:
        await exercise(catalog, bench.folder)
        names = (await launch(catalog, "probe__environment").wait()).content
        assert "GIVEN" in names
        assert "SECRET_TOKEN" not in names
        await grow(catalog)

    bench.use(f'{STDIO}environment = {{GIVEN = "${{SECRET_TOKEN}}"}}\n', scenario)


def test_over_http(bench: Bench) -> None:
    async def scenario() -> None:
        port = free_port()
        server = await http_server(port)
        catalog = bench.catalog(f'[mcp.probe]\nurl = "http://127.0.0.1:{port}/mcp"\n{READ.format(name="echo")}')
        await catalog.open()
        try:
            assert catalog.why_not_early("probe__point")
            assert catalog.why_not_early("probe__echo") is None
            assert catalog.tool("probe__echo").remote
            assert (await launch(catalog, "probe__echo", text="x").wait()).content == "x"
            server.kill()
            await server.wait()
            server = await http_server(port)
            assert (await launch(catalog, "probe__echo", text="back").wait()).content == "back"
        finally:
            await catalog.close()
            server.kill()
            await server.wait()

    asyncio.run(scenario())


def test_http_holds_what_stdio_holds(bench: Bench) -> None:
    async def scenario() -> None:
        port = free_port()
        server = await http_server(port)
        catalog = bench.catalog(f'[mcp.probe]\nurl = "http://127.0.0.1:{port}/mcp"\n')
        await catalog.open()
        try:
            await exercise(catalog, bench.folder)
        finally:
            await catalog.close()
            server.kill()
            await server.wait()

    asyncio.run(scenario())


def test_a_server_that_dies_comes_back(bench: Bench) -> None:
    async def scenario(catalog: Catalog) -> None:
        died = await launch(catalog, "probe__die").wait()
        assert (died.failure, died.content) == ("crashed", "the MCP server probe went away during the call")
        assert (await launch(catalog, "probe__echo", text="back").wait()).content == "back"

    bench.use(STDIO, scenario)


@pytest.mark.parametrize(
    ("toml", "fault"),
    [
        ('[mcp.probe]\ncommand = ["false"]\n', "mcp.probe cannot be used"),
        ('[mcp.probe]\ncommand = ["sleep", "60"]\nstart_timeout_s = 0.3\n', "did not answer within 0.3 s"),
        ('[mcp.probe]\nurl = "http://127.0.0.1:9/mcp"\n', "mcp.probe cannot be used"),
        (f'{STDIO}only = ["ecko"]\n', "names the tool 'ecko'"),
        (f"{STDIO}{READ.format(name='ecko')}", "names the tool 'ecko'"),
        (f'{STDIO}[mcp.probe.tools.echo]\ninert = ["why"]\n', "inert names 'why'"),
        (f'{STDIO}headers = {{A = "${{UNSET_VARIABLE}}"}}\n', "UNSET_VARIABLE"),
        (
            f'[tools.probe__echo]\nkind = "command"\nargv = ["true"]\nparameters = {{type = "object"}}\n{STDIO}',
            "rename one",
        ),
    ],
)
def test_a_server_that_cannot_be_used_refuses_the_start(bench: Bench, toml: str, fault: str) -> None:
    async def never(_: Catalog) -> None:
        raise AssertionError("it opened")

    with pytest.raises(ConfigError) as caught:
        bench.use(toml, never)
    assert fault in str(caught.value)


def test_only_limits_what_is_offered(bench: Bench) -> None:
    async def scenario(catalog: Catalog) -> None:
        assert [tool.name for tool in catalog.tools()] == ["probe__echo"]

    bench.use(f'{STDIO}only = ["echo"]\n', scenario)
