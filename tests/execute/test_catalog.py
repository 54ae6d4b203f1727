import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from tool_bench import Bench, launch

from sglang_paste.errors import BadArguments, UnknownTool
from sglang_paste.execute import canary, sandbox
from sglang_paste.execute.catalog import Catalog
from sglang_paste.execute.listing import main as print_tools
from sglang_paste.execute.sandbox import Confinement

ARRAY = '{type = "array", items = {type = "integer"}}'
SCHEMA = f'parameters = {{type = "object", properties = {{a = {ARRAY}}}, required = ["a"]}}\n'
ECHO = f'kind = "command"\nargv = ["echo", "--", "{{a}}"]\n{SCHEMA}'
EARLY = 'effect = "read"\nreads = ["files"]\nobserves = "local"\nspeculate = true\n'


def toml(**tools: str) -> str:
    return "\n".join(f"[tools.{name}]\n{ECHO}{settings}" for name, settings in tools.items())


def test_why_a_tool_never_runs_early(bench: Bench) -> None:
    tools = {
        "early": EARLY,
        "write": EARLY.replace('"read"', '"write"'),
        "unmarked": EARLY.replace("true", "false"),
        "outside": EARLY.replace("local", "external"),
        "consented": f"{EARLY.replace('local', 'external')}disclose = true\n",
        "open": f"{EARLY}sandbox = false\n",
    }

    async def scenario(catalog: Catalog) -> None:
        reasons = {name: catalog.why_not_early(name) for name in tools}
        assert reasons.pop("early") is None
        assert reasons.pop("consented") is None
        assert reasons == {
            "write": "its effect is write, and what was written early could not be taken back",
            "unmarked": "speculate is not set",
            "outside": 'it is observed outside (observes = "external"), and disclose is not set',
            "open": "its sandbox is switched off",
        }

    bench.use(toml(**tools), scenario)


def deep(levels: int) -> Any:
    return {"a": deep(levels - 1)} if levels else 1


@pytest.mark.parametrize("arguments", [{"a": "\ud83d"}, {"\ud83d": "a"}, {"a": {"\udfff": 1}}, {"n": deep(400)}])
def test_what_json_cannot_say_and_what_nobody_can_check_are_bad_arguments(
    bench: Bench, arguments: dict[str, Any]
) -> None:
    properties = "properties = {a = {}, n = {type = 'integer'}}"
    free = f'[tools.t]\nkind = "command"\nargv = ["echo", "{{a}}"]\nparameters = {{type = "object", {properties}}}\n'

    async def scenario(catalog: Catalog) -> None:
        with pytest.raises(BadArguments):
            catalog.validate("t", arguments)

    bench.use(free, scenario)


def test_of_a_shell_only_calls_that_read_may_run_early(bench: Bench) -> None:
    shell = (
        '[tools.sh]\nkind = "command"\nargv = ["sh", "-c", "{a}"]\nworkspace = "work"\nspeculate = true\n'
        'observes = "local"\nreads_when = { a = ["ls", "cat"] }\n'
        'parameters = {type = "object", properties = {a = {type = "string"}}}\n'
    )
    bench.folder.joinpath("work").mkdir()

    async def scenario(catalog: Catalog) -> None:
        assert "but for calls that reads_when tells" in (catalog.why_not_early("sh") or "")
        assert "its effect is write" in (catalog.why_not_early("sh", {"a": "ls; touch x"}) or "")
        assert catalog.why_not_early("sh", {"a": "ls -a"}) is None
        assert not (await launch(catalog, "sh", a="touch x && ls").wait()).is_error
        assert (await launch(catalog, "sh", a="ls").wait()).content == "x\n"

    bench.use(shell, scenario)


def test_a_call_that_reads_could_not_write_even_if_it_tried(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sglang_paste.policy.only_reads", lambda text, commands: True)
    shell = (
        '[tools.sh]\nkind = "command"\nargv = ["sh", "-c", "{a}"]\nworkspace = "work"\nreads_when = { a = ["ls"] }\n'
        'parameters = {type = "object", properties = {a = {type = "string"}}}\n'
    )
    bench.folder.joinpath("work").mkdir()

    async def scenario(catalog: Catalog) -> None:
        assert "Read-only file system" in (await launch(catalog, "sh", a="touch x").wait()).content

    bench.use(shell, scenario)


def test_arguments_are_checked_with_path_and_fault(bench: Bench) -> None:
    async def scenario(catalog: Catalog) -> None:
        catalog.validate("t", {"a": [1, 2]})
        with pytest.raises(BadArguments, match=r'the arguments of t do not fit its schema: a\[1\]: "x" is not of type'):
            catalog.validate("t", {"a": [1, "x"]})
        with pytest.raises(BadArguments, match='"a" is a required property'):
            catalog.validate("t", {})
        with pytest.raises(BadArguments) as caught:
            catalog.validate("t", {"a": ["x" * 100_000] * 50})
        assert len(str(caught.value)) < 1500
        for name, advice in (
            ("tt", "did you mean t"),
            ("nothing_like_it", "GET /v1/tools"),
            ("x__y", "there is no tool"),
        ):
            with pytest.raises(UnknownTool, match=advice):
                catalog.tool(name)
            with pytest.raises(UnknownTool):
                launch(catalog, name)

    bench.use(toml(t=""), scenario)


def test_closing_ends_every_run(bench: Bench) -> None:
    async def scenario(catalog: Catalog) -> None:
        runs = [launch(catalog, "t", a=[1]) for _ in range(6)]
        await catalog.close()
        for run in runs:
            assert (await run.wait()).failure in (None, "cancelled")

    bench.use(toml(t="").replace('["echo", "--", "{a}"]', '["sleep", "1000"]'), scenario)


@pytest.mark.parametrize(
    ("hole", "escape"),
    [
        ("--share-net", "reach the network"),
        ("--bind", "write a file of the host"),
        ("--ro-bind", "read a file of the host"),
    ],
)
def test_the_canary_finds_a_hole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hole: str, escape: str) -> None:
    whole = sandbox.wrap
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def leaky(argv: list[str], grant: Confinement) -> list[str]:
        command = whole(argv, grant)
        at = command.index("--remount-ro")
        mount = [hole] if hole == "--share-net" else [hole, str(tmp_path), str(tmp_path)]
        return [*command[:at], *mount, *command[at:]]

    assert asyncio.run(canary.prove_sandbox()) is None
    monkeypatch.setattr(canary, "wrap", leaky)
    assert escape in (asyncio.run(canary.prove_sandbox()) or "")


def test_the_canary_says_why_there_is_no_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canary, "wrap", lambda argv, grant: ["sh", "-c", "echo no namespaces >&2; exit 1"])
    assert "no namespaces" in (asyncio.run(canary.prove_sandbox()) or "")


def test_the_listing(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(bench.write("tools.toml", toml(one=EARLY, two="")))
    assert print_tools(path, as_json=False) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:5] == ["name", "kind", "effect", "reads", "writes"]
    assert lines[1].split() == ["one", "command", "read", "files", "-", "yes", "-"]
    assert "no: its effect is write" in lines[2]
    assert print_tools(path, as_json=True) == 0
    records = json.loads(capsys.readouterr().out)
    assert [(record["name"], record["may_run_early"]) for record in records] == [("one", True), ("two", False)]
    bench.write("tools.toml", "[tools.x]")
    assert print_tools(path, as_json=False) == 1
    assert "tools.x has no kind" in capsys.readouterr().err
