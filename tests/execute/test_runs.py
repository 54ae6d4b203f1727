import asyncio

from sglang_paste.execute.base import Outcome
from sglang_paste.execute.runs import Gate, TaskRun


def start(
    gate: Gate, body: "asyncio.Event | float", log: list[str], name: str, *, speculative: bool = False
) -> TaskRun:
    async def run(_: TaskRun) -> Outcome:
        log.append(name)
        if isinstance(body, asyncio.Event):
            await body.wait()
        else:
            await asyncio.sleep(body)
        return Outcome(content=name)

    return TaskRun(name, run, gate=gate, timeout_s=5.0, speculative=speculative)


def test_authoritative_runs_go_in_first_and_a_promoted_one_with_them() -> None:
    async def scenario() -> list[str]:
        gate, hold, log = Gate(1), asyncio.Event(), list[str]()
        first = start(gate, hold, log, "first", speculative=True)
        await asyncio.sleep(0)
        late = start(gate, 0.0, log, "speculative", speculative=True)
        promoted = start(gate, 0.0, log, "promoted", speculative=True)
        real = start(gate, 0.0, log, "authoritative")
        await asyncio.sleep(0)
        promoted.promote()
        hold.set()
        for run in (first, late, promoted, real):
            await run.wait()
        return log

    assert asyncio.run(scenario()) == ["first", "promoted", "authoritative", "speculative"]


def test_cancelling_while_waiting_or_running_frees_the_place() -> None:
    async def scenario() -> None:
        gate, log = Gate(1), list[str]()
        running = start(gate, asyncio.Event(), log, "running")
        waiting = start(gate, 0.0, log, "waiting")
        await asyncio.sleep(0)
        await waiting.cancel()
        await waiting.cancel()
        assert (await waiting.wait()).failure == "cancelled"
        await running.cancel()
        assert (await running.wait()).failure == "cancelled"
        assert (await start(gate, 0.0, log, "next").wait()).content == "next"
        assert log == ["running", "next"]

    asyncio.run(scenario())


def test_cancelled_before_it_began() -> None:
    async def scenario() -> None:
        log = list[str]()
        run = start(Gate(1), 0.0, log, "never")
        await run.cancel()
        assert (await run.wait()).failure == "cancelled"
        assert not log

    asyncio.run(scenario())


def test_a_body_that_raises_or_hangs_has_an_outcome() -> None:
    async def raises(_: TaskRun) -> Outcome:
        raise TimeoutError("its own")

    async def hangs(_: TaskRun) -> Outcome:
        await asyncio.Event().wait()
        return Outcome(content="")

    async def scenario() -> None:
        crashed = TaskRun("t", raises, gate=Gate(1), timeout_s=5.0, speculative=False)
        assert (await crashed.wait()).failure == "crashed"
        hung = TaskRun("t", hangs, gate=Gate(1), timeout_s=0.01, speculative=False)
        outcome = await hung.wait()
        assert outcome.failure == "timeout"
        assert "0.01 s" in outcome.content
        assert outcome.duration > 0.005

    asyncio.run(scenario())


def test_a_waiter_that_gives_up_leaves_the_run_alone() -> None:
    async def scenario() -> None:
        hold = asyncio.Event()
        run = start(Gate(1), hold, [], "kept")
        waiter = asyncio.create_task(run.wait())
        await asyncio.sleep(0)
        waiter.cancel()
        await asyncio.gather(waiter, return_exceptions=True)
        hold.set()
        assert (await run.wait()).content == "kept"
        assert (await run.wait()).content == "kept"

    asyncio.run(scenario())


def test_a_place_goes_to_the_next_where_the_first_was_cancelled_in_the_same_moment() -> None:
    async def scenario() -> None:
        gate, log = Gate(1), list[str]()
        await gate.enter(start(Gate(1), 0.0, log, "holder"))
        first, second = (start(gate, 0.0, log, name) for name in ("first", "second"))
        await asyncio.sleep(0)
        leaving = asyncio.create_task(first.cancel())
        await asyncio.sleep(0)  # it is cancelled, and has not noticed
        gate.leave()
        assert (await second.wait()).content == "second"
        await leaving
        assert log == ["holder", "second"]
        assert (await start(gate, 0.0, log, "next").wait()).content == "next"

    asyncio.run(scenario())
