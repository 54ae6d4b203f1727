"""What a started program holds, and gives back."""

import asyncio
import os
from collections.abc import Callable

import pytest
import uvloop
from tool_bench import Bench

from sglang_paste.execute.process import Process


@pytest.mark.parametrize("loop_factory", [asyncio.SelectorEventLoop, uvloop.new_event_loop])
@pytest.mark.parametrize("turns", range(4))
def test_cancelling_a_connection_closes_nothing_of_others(
    bench: Bench, loop_factory: Callable[[], asyncio.AbstractEventLoop], turns: int
) -> None:
    async def main() -> None:
        process = Process(["sleep", "1000"], environment={}, folder=None, low=False, confined=False)
        connecting = [asyncio.create_task(process.reader(process.stdout)), asyncio.create_task(process.writer())]
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in connecting:
            task.cancel()
        await asyncio.gather(*connecting, return_exceptions=True)
        await asyncio.sleep(0.01)
        ours = [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]
        await process.kill()
        del process, connecting
        await asyncio.sleep(0.01)
        for descriptor in ours:
            os.close(descriptor)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())
