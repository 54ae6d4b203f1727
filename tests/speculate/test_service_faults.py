"""The side process's loops where something goes wrong: no call is made twice, none is lost, nothing stays behind."""

from pathlib import Path

import msgspec
import pytest
from side_house import (
    READ,
    SESSION,
    WRITE,
    FakeRun,
    FakeTools,
    answer,
    arguments,
    candidate,
    check,
    house,
)

from sglang_paste.calls import ToolCall
from sglang_paste.errors import CallError, OutcomeUnknown, UnknownTool
from sglang_paste.events import CallReady, Event, ToolReturned
from sglang_paste.predict import Candidate


def test_after_a_crash_nobody_guesses(tmp_path: Path) -> None:
    async def main() -> None:
        async with house(tmp_path, FakeTools(write=WRITE)) as home:
            home.call("write", "a", call_id="c1")
            await home.run(0)
            home.tools.runs.clear()
        async with house(tmp_path, FakeTools(write=WRITE)) as home:
            with pytest.raises(OutcomeUnknown):
                home.call("write", "a", call_id="c1")
            assert not home.tools.runs

    check(main)


def test_a_call_that_never_started_may_be_made_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with house(tmp_path, FakeTools(write=WRITE)) as home:
            ticket = home.call("write", "a", call_id="c1")
            (await home.run(0)).finish("no server", failure="unavailable")
            assert (await answer(ticket)).outcome.failure == "unavailable"
            ticket = home.call("write", "a", call_id="c1")
            (await home.run(1)).finish("written")
            assert (await answer(ticket)).how == "run"

    check(main)


def test_what_goes_wrong_with_an_early_run_is_not_the_fault_of_a_call_that_has_run(tmp_path: Path) -> None:
    """Its answer must not get lost, or a retry would make it twice."""

    async def main() -> None:
        tools = FakeTools(read=msgspec.structs.replace(READ, inert=("why",), concurrency=1))
        async with house(tmp_path, tools) as home:
            await home.heard()
            ticket = home.call("read", "b", call_id="c1")
            run = await home.run(0)
            observe, home.learning.observe = home.learning.observe, odd  # type: ignore[method-assign]
            home.ready("read", "a")
            await home.heard()
            home.learning.observe = observe  # type: ignore[method-assign]
            run.finish("done")
            assert (await answer(ticket)).outcome.content == "done"
            retried = home.call("read", "b", call_id="c1").ready()
            assert retried is not None
            assert retried.how == "replayed"
            (await home.early("read", "c")).finish("it has used up nothing")
            assert [run.call.arguments["path"] for run in tools.runs] == ["b", "c"]

    def odd(event: Event) -> list[Candidate]:
        one = candidate("read", arguments("a"))
        return [msgspec.structs.replace(one, arguments={"path": "a", "why": "\ud83d"})]

    check(main)


@pytest.mark.parametrize("how", ["raises", "refuses"])
def test_a_write_that_never_ran_and_was_made_elsewhere_counts(tmp_path: Path, how: str) -> None:
    async def main() -> None:
        tools = FakeTools(read=READ, write=WRITE)
        async with house(tmp_path, tools) as home:
            (await home.early("read", "a")).finish("old")
            if how == "raises":
                launch = tools.launch
                tools.launch = gone  # type: ignore[method-assign, assignment]
            ticket = home.call("write", "a", session=SESSION)
            if how == "raises":
                with pytest.raises(CallError):
                    await answer(ticket)
                tools.launch = launch  # type: ignore[method-assign]
            else:
                (await home.run(1)).finish("no server", failure="unavailable")
                await answer(ticket)
            (await home.early("read", "b")).finish("old")
            home.say(ToolReturned, tool="write", arguments=arguments("a"), content="made by the client", call_id="w1")
            await home.heard()
            ticket = home.call("read", "b", session=SESSION)
            (await home.run(len(tools.runs))).finish("new")
            assert (await answer(ticket)).outcome.content == "new"

    def gone(call: ToolCall, *, speculative: bool) -> FakeRun:
        raise UnknownTool(f"there is no tool {call.tool!r}")

    check(main)


def test_a_call_that_could_not_take_off_may_be_made_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with house(tmp_path, FakeTools(read=READ)) as home:
            run = await home.early("read", "a")
            promote, run.promote = run.promote, broken  # type: ignore[method-assign]
            with pytest.raises(RuntimeError):
                home.call("read", "a", session=SESSION, call_id="c1")
            run.promote = promote  # type: ignore[method-assign]
            ticket = home.call("read", "a", session=SESSION, call_id="c1")
            (await home.run(1)).finish("text of a")
            assert (await answer(ticket)).how == "run"

    def broken() -> None:
        raise RuntimeError("no such process")

    check(main)


def test_nonsense_on_the_bus_disturbs_nobody(tmp_path: Path) -> None:
    async def main() -> None:
        async with house(tmp_path, FakeTools(read=READ)) as home:
            for frame in (b"", b"\xff" * 99, b"\x91" * 9999):
                home.bus.feed("stranger", frame)
            for text in ("{", "[]", '{"path": NaN}', "\ud800".encode("utf-8", "replace").decode(), "[" * 100_000):
                home.say(ToolReturned, tool="read", call_id="c", arguments=text, content="")
            home.say(CallReady, index=0, tool="read", arguments='{"')
            run = await home.early("read", "a")
            run.finish("text of a")
            assert home.bus.malformed == 3
            assert (await answer(home.call("read", "a", session=SESSION))).outcome.content == "text of a"

    check(main)
