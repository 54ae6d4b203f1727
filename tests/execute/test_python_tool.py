import asyncio
import os
import sys
import time
from pathlib import Path

import pytest
from tool_bench import Bench, eventually, launch

from sglang_paste.errors import BadArguments, ConfigError
from sglang_paste.execute.catalog import Catalog
from sglang_paste.execute.priority import children

MODULE = '''
import asyncio, os, subprocess, sys, time
from dataclasses import dataclass
from typing import Annotated, Literal

@dataclass
class Point:
    x: int
    y: int = 0

def add(a: int, b: Annotated[int, "the second"] = 2, how: Literal["plain", "loud"] | None = None) -> dict:
    """Add two numbers."""
    return {"sum": a + b, "how": how}

def shift(point: Point, by: list[int] = []) -> Point:
    return Point(point.x + sum(by), point.y)

async def later(text: str) -> str:
    await asyncio.sleep(0)
    return text

def noisy() -> str:
    print("on stdout")
    os.write(1, b"on fd 1")
    subprocess.run(["echo", "from a child"])
    return "result"

def die(): os._exit(3)
def leave(): sys.exit("left")
def boom(): raise ValueError("bad é")
def nan(): return object()
def text(n: int) -> str: return "é" * n
def surrogate() -> str: return "a\\ud800b\\0c"
def hang():
    subprocess.Popen(["sleep", "54321"])
    time.sleep(1000)
def pid() -> int: return os.stat("/proc/self").st_ino
def stars(*values): return ""
def look(path: str) -> list[str]: return sorted(os.listdir(path))
def flood():
    os.write(2, b"x" * 10_000_000)
    return "done"
'''


def tools(*names: str, **settings: str) -> str:
    extra = "\n".join(f"{key} = {value}" for key, value in settings.items())
    return "\n".join(f'[tools.{name}]\nkind = "python"\nfunction = "mine:{name}"\n{extra}\n' for name in names)


@pytest.fixture
def mine(bench: Bench) -> Bench:
    bench.write("mine.py", MODULE)
    return bench


def test_schema_and_description_come_from_the_function(mine: Bench) -> None:
    async def scenario(catalog: Catalog) -> None:
        info = catalog.tool("add")
        assert info.description == "Add two numbers."
        assert info.parameters["required"] == ["a"]
        assert info.parameters["additionalProperties"] is False
        assert info.parameters["properties"]["b"] == {"type": "integer", "description": "the second", "default": 2}
        catalog.validate("add", {"a": 1, "how": "loud"})
        catalog.validate("shift", {"point": {"x": 1}})
        for bad in ({}, {"a": "1"}, {"a": 1, "how": "soft"}, {"a": 1, "c": 1}):
            with pytest.raises(BadArguments):
                catalog.validate("add", bad)
        outcome = await launch(catalog, "add", a=2**70, how="loud").wait()
        assert outcome.structured == {"sum": 2**70 + 2, "how": "loud"}
        assert (await launch(catalog, "shift", point={"x": 1}, by=[2, 3]).wait()).content == '{"x":6,"y":0}'

    mine.use(tools("add", "shift"), scenario)


def test_results_and_errors(mine: Bench) -> None:
    async def scenario(catalog: Catalog) -> None:
        assert (await launch(catalog, "later", text="später").wait()).content == "später"
        for _ in range(2):
            assert (await launch(catalog, "noisy").wait()).content == "result"
        assert (await launch(catalog, "flood").wait()).content == "done"
        boom = await launch(catalog, "boom").wait()
        assert (boom.content, boom.is_error, boom.failure) == ("ValueError: bad é", True, None)
        assert (await launch(catalog, "leave").wait()).content == "SystemExit: left"
        assert "it returned a object, which is no JSON" in (await launch(catalog, "nan").wait()).content
        assert (await launch(catalog, "surrogate").wait()).content == "a?b�c"
        cut = await launch(catalog, "text", n=600).wait()
        assert (cut.content, cut.truncated) == ("é" * 500, True)

    mine.use(
        tools("later", "noisy", "flood", "boom", "leave", "nan", "surrogate", "text", output_limit="1001"), scenario
    )


def test_the_worker_stays_warm_and_is_replaced_when_it_dies(mine: Bench) -> None:
    async def scenario(catalog: Catalog) -> None:
        first = await launch(catalog, "pid").wait()
        assert (await launch(catalog, "pid").wait()).content == first.content
        for _ in range(3):
            died = await launch(catalog, "die").wait()
            assert (died.failure, died.content) == ("crashed", "the worker of die died: exit code 3")

    mine.use(tools("pid", "die"), scenario)


def test_a_hanging_function_is_stopped_with_what_it_started(mine: Bench) -> None:
    async def scenario(catalog: Catalog) -> None:
        outcome = await launch(catalog, "hang").wait()
        assert outcome.failure == "timeout"
        assert not any("54321" in line for line in _command_lines())
        run = launch(catalog, "patient", speculative=True)
        await eventually(lambda: any(line.startswith("sleep\x0054321") for line in _command_lines()))
        run.promote()
        await run.cancel()
        assert not any("54321" in line for line in _command_lines())

    mine.use(tools("hang", timeout_s="1.0") + tools("hang").replace("[tools.hang]", "[tools.patient]"), scenario)


def test_runs_go_on_at_once_up_to_the_concurrency(mine: Bench) -> None:
    async def scenario(catalog: Catalog) -> None:
        runs = [launch(catalog, "hang") for _ in range(3)]
        await eventually(lambda: sum(line.startswith("sleep\x0054321") for line in _command_lines()) == 2)
        await asyncio.gather(*(run.cancel() for run in runs))

    mine.use(tools("hang", concurrency="2"), scenario)


def test_a_worker_sees_its_own_folder_and_no_more(mine: Bench) -> None:
    async def scenario(catalog: Catalog) -> None:
        assert (await launch(catalog, "look", path=str(mine.folder)).wait()).structured == ["mine.py", "tools.toml"]
        hidden = await launch(catalog, "look", path=str(mine.folder.parent)).wait()
        assert hidden.structured == [mine.folder.name]

    mine.folder.parent.joinpath("beside").mkdir(exist_ok=True)
    mine.use(tools("look"), scenario)


@pytest.mark.parametrize(
    ("function", "fault"),
    [
        ("absent:add", "ModuleNotFoundError"),
        ("mine:absent", "AttributeError"),
        ("mine:MODULE_NAME", "AttributeError"),
        ("mine:stars", "give its parameters"),
        ("broken:add", "ZeroDivisionError"),
        ("dying:add", "its worker died"),
    ],
)
def test_a_function_that_cannot_be_used_refuses_the_start(mine: Bench, function: str, fault: str) -> None:
    mine.write("broken.py", "1 / 0")
    mine.write("dying.py", "import os; os._exit(1)")

    async def never(_: Catalog) -> None:
        raise AssertionError("it opened")

    with pytest.raises(ConfigError, match=r"tools\.t") as caught:
        mine.use(f'[tools.t]\nkind = "python"\nfunction = "{function}"\n', never)
    assert fault in str(caught.value)


def test_a_given_schema_needs_no_signature(mine: Bench) -> None:
    mine.write("mine.py", "def stars(**values): return sorted(values)\n")
    schema = 'parameters = {type = "object"}'

    async def scenario(catalog: Catalog) -> None:
        assert (await launch(catalog, "stars", b=1, a=2).wait()).structured == ["a", "b"]

    mine.use(f"{tools('stars')}{schema}\n", scenario)


OWNER = """
import asyncio, sys
from tool_bench import launch
from sglang_paste.execute.catalog import Catalog, load_config

async def main():
    catalog = Catalog(load_config(sys.argv[1]))
    await catalog.open()
    runs = [launch(catalog, "hang"), launch(catalog, "sleep")]
    await asyncio.gather(*(run.wait() for run in runs))

asyncio.run(main())
"""


def test_nothing_survives_the_sudden_death_of_the_owner(mine: Bench) -> None:
    command = '[tools.sleep]\nkind = "command"\nargv = ["sh", "-c", "setsid sleep 65432 & sleep 65432"]\n'
    path = mine.write("tools.toml", f'{tools("hang")}{command}parameters = {{type = "object"}}\n')

    async def scenario() -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        before = frozenset(children(os.getpid()))
        owner = await asyncio.create_subprocess_exec(sys.executable, "-c", OWNER, str(path), env=environment)
        try:
            await eventually(lambda: len([line for line in _command_lines() if _asleep(line)]) == 3, 60)
        finally:
            owner.kill()
            await owner.wait()
        await eventually(lambda: not any(map(_asleep, _command_lines())))
        await eventually(lambda: _reaped(before))

    asyncio.run(scenario())


def _asleep(line: str) -> bool:
    return line.startswith(("sleep\x0054321", "sleep\x0065432"))


def _reaped(before: frozenset[int]) -> bool:
    """Take up what this process, which had the children `before`, inherited from the dead owner."""
    inherited = set(children(os.getpid())) - before
    for pid in inherited:
        os.waitpid(pid, os.WNOHANG)
    return not inherited


def _command_lines() -> list[str]:
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().decode(errors="replace"))
        except OSError:
            continue
    return lines


def test_a_warm_call_is_quick(mine: Bench) -> None:
    async def scenario(catalog: Catalog) -> float:
        best = 1.0
        for _ in range(30):
            start = time.perf_counter()
            await launch(catalog, "later", text="x").wait()
            best = min(best, time.perf_counter() - start)
        return best

    assert mine.use(tools("later"), scenario) < 0.05
