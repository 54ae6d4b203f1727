"""What a call that ran early leads to runs before the call is made."""

from pathlib import Path

import pytest
from side_house import READ, SESSION, WRITE, FakeTools, answer, check, house


def test_a_chain_runs_ahead_and_each_of_its_calls_is_claimed(tmp_path: Path) -> None:
    async def main() -> None:
        async with house(tmp_path, FakeTools(read=READ)) as home:
            first = await home.early("read", "a")
            first.finish("read b")
            second = await home.run(1)
            assert (second.call.arguments, second.speculative) == ({"path": "b"}, True)
            second.finish("read c")
            third = await home.run(2)
            third.finish("the end")
            await home.heard()
            for path, content in (("a", "read b"), ("b", "read c"), ("c", "the end")):
                made = await answer(home.call("read", path, session=SESSION))
                assert (made.how, made.outcome.content) == ("reused", content)
            assert len(home.tools.runs) == 3

    check(main)


def test_a_failed_run_leads_nowhere(tmp_path: Path) -> None:
    async def main() -> None:
        async with house(tmp_path, FakeTools(read=READ)) as home:
            (await home.early("read", "a")).finish("read b", failure="crashed")
            await home.heard()
            assert len(home.tools.runs) == 1

    check(main)


def test_a_write_squashes_the_whole_chain(tmp_path: Path) -> None:
    async def main() -> None:
        async with house(tmp_path, FakeTools(read=READ, write=WRITE)) as home:
            (await home.early("read", "a")).finish("read b")
            (await home.run(1)).finish("the end")
            ticket = home.call("write", "a", session=SESSION)
            (await home.run(2)).finish()
            await answer(ticket)
            ticket = home.call("read", "b", session=SESSION)
            (await home.run(3)).finish("new")
            made = await answer(ticket)
            assert (made.how, made.outcome.content) == ("run", "new")

    check(main)


@pytest.mark.parametrize("joined", [False, True])
def test_what_does_not_need_a_result_runs_beside_the_call_that_has_none_yet(tmp_path: Path, joined: bool) -> None:
    async def main() -> None:
        async with house(tmp_path, FakeTools(read=READ)) as home:
            if joined:
                await home.early("read", "a then b")
            await home.heard()
            first = home.call("read", "a then b", session=SESSION)
            second = await home.run(1)
            assert (second.call.arguments, second.speculative) == ({"path": "b"}, True)
            second.finish("of b")
            home.tools.runs[0].finish("of a")
            assert (await answer(first)).how == ("joined" if joined else "run")
            assert (await answer(home.call("read", "b", session=SESSION))).how == "reused"
            assert len(home.tools.runs) == 2

    check(main)


def test_what_a_call_under_way_may_change_does_not_run_beside_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with house(tmp_path, FakeTools(read=READ, write=WRITE)) as home:
            await home.heard()
            ticket = home.call("write", "a then b", session=SESSION)
            await home.run(0)
            await home.heard()
            assert home.count("paste_refusals_total") == 1
            home.tools.runs[0].finish()
            await answer(ticket)
            assert len(home.tools.runs) == 1

    check(main)
