"""The side process's loops with tools that do as they are told: what runs early, who gets it, what is called off."""

from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from side_house import (
    PURE,
    READ,
    SESSION,
    TENANT,
    WRITE,
    FakeTools,
    answer,
    arguments,
    check,
    house,
    until,
)

from sglang_paste.calls import SessionId, ToolCall
from sglang_paste.config import Limits, Policy
from sglang_paste.errors import BadArguments, CallError, Unavailable, UnknownTool
from sglang_paste.events import Ping, ToolReturned, TurnEnded, TurnStarted
from sglang_paste.gateway.api import Answer
from sglang_paste.speculate import service as service_module


def test_a_ready_call_runs_early_and_its_result_is_there_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with house(tmp_path, FakeTools(read=READ)) as home:
            run = await home.early("read", "a")
            assert run.speculative
            run.finish("text of a")
            await until(lambda: home.count("paste_tool_seconds_count") or None)
            ticket = home.call("read", "a")
            found = ticket.ready()
            assert found is not None
            assert (found.how, found.outcome.content) == ("reused", "text of a")
            await until(lambda: home.learning.confirmed or None)
            [(call, content, ok)] = home.learning.confirmed
            assert (call.session, content, ok) == (SESSION, "text of a", True)
            assert home.count('paste_speculative_ends_total{end="claimed"') == 1
            assert home.count("paste_wasted_runs_total") == 0
            assert {span.lane for span in home.desk.spans(TENANT)} == {"speculative", "tool"}

    check(main)


def test_a_call_runs_before_its_inert_arguments_are_written(tmp_path: Path) -> None:
    async def main() -> None:
        tools = FakeTools(read=msgspec.structs.replace(READ, inert=("why",)))
        schema = {"required": ["path", "why"], "properties": {"path": {}, "why": {"type": "string"}}}
        tools.infos["read"] = msgspec.structs.replace(tools.infos["read"], parameters=schema)
        async with house(tmp_path, tools) as home:
            run = await home.early("read", "a")
            run.finish("text of a")
            call = ToolCall(tenant=TENANT, tool="read", arguments={"path": "a", "why": "to see"}, session=SESSION)
            assert (await answer(home.desk.call(call))).how in ("reused", "joined")
            assert len(tools.runs) == 1
            with pytest.raises(BadArguments):
                home.call("read", "a")

    check(main)


def test_a_running_call_is_joined_and_promoted(tmp_path: Path) -> None:
    async def main() -> None:
        async with house(tmp_path, FakeTools(read=READ)) as home:
            run = await home.early("read", "a")
            ticket = home.call("read", "a", session=SESSION)
            assert ticket.ready() is None
            assert run.promoted
            run.finish("text of a")
            assert (await answer(ticket)).how == "joined"
            assert len(home.tools.runs) == 1

    check(main)


@pytest.mark.parametrize("failure", ["crashed", "timeout", "unavailable"])
def test_a_joined_call_that_fails_runs_again_for_real(tmp_path: Path, failure: Any) -> None:
    async def main() -> None:
        async with house(tmp_path, FakeTools(read=READ)) as home:
            early = await home.early("read", "a")
            ticket = home.call("read", "a", session=SESSION)
            early.finish("gone", failure=failure)
            real = await home.run(1)
            assert not real.speculative
            real.finish("text of a")
            found = await answer(ticket)
            assert (found.how, found.outcome.content) == ("run", "text of a")

    check(main)


def test_a_queued_call_is_promoted(tmp_path: Path) -> None:
    async def main() -> None:
        async with house(tmp_path, FakeTools(read=READ), Limits(speculative=1)) as home:
            await home.early("read", "a")
            home.ready("read", "b")
            await home.heard()
            ticket = home.call("read", "b", session=SESSION)
            (await home.run(1)).finish("text of b")
            assert not home.tools.runs[1].speculative
            assert (await answer(ticket)).how == "promoted"

    check(main)


def test_another_call_simply_runs(tmp_path: Path) -> None:
    async def main() -> None:
        async with house(tmp_path, FakeTools(read=READ)) as home:
            (await home.early("read", "a")).finish("text of a")
            for session in (SESSION, SessionId("s2")):
                path = "b" if session == SESSION else "a"
                ticket = home.call("read", path, session=session)
                run = await until(lambda: next((r for r in home.tools.runs if not r.speculative), None))
                run.finish("by itself")
                assert (await answer(ticket)).how == "run"
                home.tools.runs.remove(run)

    check(main)


def test_a_write_squashes_what_reads_it_while_it_runs(tmp_path: Path) -> None:
    async def main() -> None:
        async with house(tmp_path, FakeTools(read=READ, write=WRITE)) as home:
            early = await home.early("read", "a")
            joined = home.call("read", "a", session=SESSION)
            ticket = home.call("write", "a", session=SESSION)
            write = await until(lambda: next((r for r in home.tools.runs if r.call.tool == "write"), None))
            await until(lambda: early.cancelled or None)
            home.ready("read", "c")
            await home.heard()
            assert home.count('paste_refusals_total{reason="write under way"') == 1
            write.finish("written")
            assert (await answer(ticket)).how == "run"
            again = await until(
                lambda: next((r for r in home.tools.runs if r is not early and r.call.tool == "read"), None)
            )
            again.finish("new text of a")
            assert (await answer(joined)).outcome.content == "new text of a"

    check(main)


def test_a_write_elsewhere_squashes_too(tmp_path: Path) -> None:
    async def main() -> None:
        async with house(tmp_path, FakeTools(read=READ, write=WRITE)) as home:
            early = await home.early("read", "a")
            home.say(ToolReturned, tool="write", call_id="c9", arguments=arguments("z"), content="done")
            await until(lambda: early.cancelled or None)
            assert home.count("paste_squashes_total") == 1

    check(main)


def test_authoritative_calls_go_first(tmp_path: Path) -> None:
    async def main() -> None:
        tools = FakeTools(read=Policy(effect="read", reads=("f",), observes="local", speculate=True, concurrency=1))
        async with house(tmp_path, tools) as home:
            early = await home.early("read", "a")
            ticket = home.call("read", "b", session=SESSION)
            await until(lambda: early.cancelled or None)
            (await home.run(1)).finish("text of b")
            assert (await answer(ticket)).how == "run"
            assert home.count('paste_speculative_ends_total{end="cancelled"') == 1
            assert home.count("paste_wasted_runs_total") == 1

    check(main)


def test_a_habit_gives_way_to_what_the_model_says(tmp_path: Path) -> None:
    async def main() -> None:
        async with house(tmp_path, FakeTools(read=READ), Limits(speculative=1)) as home:
            home.engine.send([Ping(sender="scheduler-0", time=0.0)])
            await until(lambda: home.service.engine_alive() or None)
            home.call("read", "followed", session=SESSION)
            (await home.run(0)).finish()
            guess = await home.run(1)
            assert guess.call.arguments == {"path": "next"}
            home.ready("read", "a")
            said = await home.run(2)
            assert guess.cancelled
            assert said.call.arguments == {"path": "a"}

    check(main)


def test_a_turn_without_calls_and_a_lost_engine_end_what_is_pointless(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service_module, "ENGINE_SILENT_S", 0.2)
    monkeypatch.setattr(service_module, "BEAT_S", 0.05)

    async def main() -> None:
        async with house(tmp_path, FakeTools(read=READ)) as home:
            home.say(TurnStarted, prompt_tokens=5, tools=("read",))
            first = await home.early("read", "a")
            home.say(TurnEnded, reason="stop", calls=0)
            await until(lambda: first.cancelled or None)
            second = await home.early("read", "b")
            assert home.service.engine_alive()
            await until(lambda: second.cancelled or None)
            assert not home.service.engine_alive()
            assert [span.outcome for span in home.desk.spans(TENANT) if span.lane == "model"] == ["stop"]

    check(main)


@pytest.mark.parametrize("disclose", [True, False])
def test_what_is_seen_outside_leaves_only_with_a_trace(tmp_path: Path, disclose: bool) -> None:
    policy = Policy(effect="read", reads=("web",), observes="external", speculate=True, disclose=disclose)

    async def main() -> None:
        async with house(tmp_path, FakeTools(look=policy, read=READ)) as home:
            home.ready("look", "what the user wants")
            await home.early("read", "marker") if not disclose else await home.run(0)
            found = [(each.tool, each.arguments) for each in home.journal.disclosures()]
            assert found == ([("look", arguments("what the user wants"))] if disclose else [])
            assert [run.call.tool for run in home.tools.runs] == (["look"] if disclose else ["read"])

    check(main)


def test_without_an_engine_nothing_runs_early(tmp_path: Path) -> None:
    async def main() -> None:
        async with house(tmp_path, FakeTools(read=READ)) as home:

            async def follow(times: int) -> list[str]:
                ticket = home.call("read", "followed", session=SESSION)
                (await home.run(times - 1)).finish()
                assert (await answer(ticket)).how == "run"
                await until(lambda: len(home.learning.confirmed) == times or None)
                return [run.call.arguments["path"] for run in home.tools.runs]

            assert await follow(1) == ["followed"]
            assert home.count('paste_refusals_total{reason="no engine"') == 1
            home.say(TurnStarted, prompt_tokens=5, tools=("read",))
            await home.heard()
            assert await follow(2) == ["followed", "followed", "next"]

    check(main)


def test_a_call_id_runs_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with house(tmp_path, FakeTools(write=WRITE)) as home:
            tickets = [home.call("write", "a", call_id="c1") for _ in range(3)]
            (await home.run(0)).finish("written")
            assert [(await answer(ticket)).how for ticket in tickets] == ["run", "joined", "joined"]
            again = home.call("write", "a", call_id="c1").ready()
            assert again is not None
            assert (again.how, again.outcome.content) == ("replayed", "written")
            assert len(home.tools.runs) == 1
            with pytest.raises(CallError):
                home.call("write", "b", call_id="c1")

    check(main)


@pytest.mark.parametrize(
    ("tool", "rest", "goes_on"),
    [("read", {}, False), ("write", {}, True), ("read", {"call_id": "c1"}, True)],
)
def test_who_hangs_up(tmp_path: Path, tool: str, rest: dict[str, Any], goes_on: bool) -> None:
    async def main() -> None:
        async with house(tmp_path, FakeTools(read=READ, write=WRITE)) as home:
            ticket = home.call(tool, "a", **rest)
            run = await home.run(0)
            ticket.leave()
            ticket.leave()
            if goes_on:
                run.finish("done")
                assert (await answer(ticket)).outcome.content == "done"
            else:
                with pytest.raises(Unavailable, match="hung up"):
                    await answer(ticket)
            assert run.cancelled is not goes_on

    check(main)


def test_hanging_up_on_a_joined_run_leaves_it_to_others(tmp_path: Path) -> None:
    async def main() -> None:
        async with house(tmp_path, FakeTools(read=READ)) as home:
            run = await home.early("read", "a")
            ticket = home.call("read", "a", session=SESSION)
            await anyio.lowlevel.checkpoint()
            ticket.leave()
            with pytest.raises(Unavailable):
                await answer(ticket)
            second = home.call("read", "a", session=SESSION)
            run.finish("text of a")
            assert (await answer(second)).how == "joined"

    check(main)


def test_what_cannot_be_run_is_said_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with house(tmp_path, FakeTools(read=READ)) as home:
            with pytest.raises(UnknownTool):
                home.call("nothing", "a")
            with pytest.raises(BadArguments):
                home.desk.call(ToolCall(tenant=TENANT, tool="read", arguments={"path": 1}))
            with pytest.raises(BadArguments):
                home.desk.call(ToolCall(tenant=TENANT, tool="read", arguments={"x": float("nan")}, call_id="c1"))
            await home.desk.close(0.1)
            with pytest.raises(Unavailable, match="stopping"):
                home.call("read", "a")
            assert home.desk.health().status == "stopping"

    check(main)


def test_closing_waits_and_then_cancels(tmp_path: Path) -> None:
    async def main() -> None:
        async with house(tmp_path, FakeTools(read=READ)) as home:
            quick, slow = home.call("read", "a"), home.call("read", "b", call_id="c1")
            first, second = await home.run(0), await home.run(1)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(home.desk.close, 0.2)
                await until(lambda: home.desk.stopping or None)
                first.finish("in time")
            assert (await answer(quick)).outcome.content == "in time"
            with pytest.raises(Unavailable, match="stopping"):
                await answer(slow)
            assert second.cancelled

    check(main)


def test_many_calls_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with house(tmp_path, FakeTools(read=READ, write=WRITE, pure=PURE), Limits(speculative=50)) as home:
            kinds = ("read", "write", "pure")
            for number in range(60):
                home.ready(kinds[number % 3], str(number), SessionId(f"s{number % 7}"))
            tickets = [home.call(kinds[n % 3], str(n), session=SessionId(f"s{n % 7}")) for n in range(60)]
            answers: list[Answer] = []

            async def finish() -> None:
                while len(answers) < 60:
                    for run in home.tools.runs:
                        run.finish(run.call.arguments["path"])
                    await anyio.sleep(0.001)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(finish)
                for ticket in tickets:
                    answers.append(await answer(ticket))
            assert [found.outcome.content for found in answers] == [str(number) for number in range(60)]
            await until(lambda: home.count("paste_entries ") == 0 or None)
            assert home.count("paste_errors_total") == 0

    check(main)
