import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
from tool_bench import Bench, eventually, launch

from sglang_paste.execute import priority
from sglang_paste.execute.catalog import Catalog
from sglang_paste.execute.priority import LOWEST, NORMAL, children, descendants, may_raise_nice, set_priority
from sglang_paste.execute.process import Process

SPIN = "import os, sys\nos.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"
SLEEP = '[tools.sleep]\nkind = "command"\nargv = ["sleep", "24680"]\nparameters = {type = "object"}\n'
PATIENCE_S = 100.0


def autogroup(pid: int) -> int:
    return int(Path(f"/proc/{pid}/autogroup").read_text().rsplit(" ", 1)[1])


def cpu_ticks(process: Process) -> int:
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def spin() -> Process:
    argv = [sys.executable, "-S", "-c", SPIN, str(max(os.sched_getaffinity(0)))]
    return Process(argv, environment={}, folder=None, low=False, confined=False)


async def share(low: Process, normal: Process) -> float:
    """The CPU time of one for each unit of the other's, over the same second of it."""
    before = cpu_ticks(low), cpu_ticks(normal)
    await eventually(lambda: max(cpu_ticks(low) - before[0], cpu_ticks(normal) - before[1]) >= 100, PATIENCE_S)
    return (cpu_ticks(low) - before[0]) / max(1, cpu_ticks(normal) - before[1])


def test_a_lowered_process_yields_its_core_until_it_is_raised_again() -> None:
    async def scenario() -> None:
        processes = [spin(), spin()]
        try:
            await eventually(lambda: all(cpu_ticks(process) > 20 for process in processes), PATIENCE_S)
            processes[0].set_low(True)
            assert await share(*processes) < 0.4
            processes[0].set_low(False)
            assert await share(*processes) > 0.5
        finally:
            await asyncio.gather(*(process.kill() for process in processes))

    asyncio.run(scenario())


def _sleeping() -> list[int]:
    return [pid for child in children(os.getpid()) for pid in descendants(child) if _is_sleep(pid)]


def _is_sleep(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().endswith(b"sleep\x0024680\0")
    except OSError:
        return False


def _priorities() -> set[tuple[int, int]]:
    """Of the group and of the process, of all that sleep."""
    return {(autogroup(pid), os.getpriority(os.PRIO_PROCESS, pid)) for pid in _sleeping()}


UNPRIVILEGED = """
import os, subprocess, sys, time
from pathlib import Path
from sglang_paste.execute import priority
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
child = subprocess.Popen(["sleep", "60"], start_new_session=True)
seen = [priority.may_raise_nice()]
for nice in (priority.LOWEST, priority.NORMAL):
    deadline = time.monotonic() + 20
    while not priority.set_priority(child.pid, nice) and time.monotonic() < deadline:
        time.sleep(0.03)
    seen.append(int(Path(f"/proc/{child.pid}/autogroup").read_text().rsplit(" ", 1)[1]))
    seen.append(os.getpriority(os.PRIO_PROCESS, child.pid))
child.kill()
child.wait()
print(seen)
"""


def test_an_unprivileged_owner_can_lower_and_raise_again() -> None:
    async def scenario() -> bytes:
        argv = [sys.executable, "-c", UNPRIVILEGED]
        process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
        return (await process.communicate())[0]

    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert asyncio.run(scenario()).decode().strip() == str([False, LOWEST, own, NORMAL, own])


def test_a_speculative_run_is_low_until_it_is_promoted(bench: Bench) -> None:
    async def scenario(catalog: Catalog) -> None:
        run = launch(catalog, "sleep", speculative=True)
        await eventually(lambda: _priorities() == {(LOWEST, LOWEST if may_raise_nice() else NORMAL)}, PATIENCE_S)
        run.promote()
        await eventually(lambda: _priorities() == {(NORMAL, NORMAL)}, PATIENCE_S)
        await run.cancel()

    bench.use(SLEEP, scenario)


FORKS = """
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
print("ready", flush=True)
signal.sigwait({signal.SIGUSR1})
forked = os.fork()
if forked: print(forked, flush=True)
signal.pause()
"""


def test_what_is_forked_while_its_parent_is_looked_up_gets_the_priority_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        process = Process([sys.executable, "-S", "-c", FORKS], environment={}, folder=None, low=False, confined=False)
        assert process.stdout is not None
        forked: list[int] = []

        def fork_behind(pid: int) -> list[int]:
            found = descendants(pid)
            if not forked:
                os.kill(pid, signal.SIGUSR1)
                forked.append(int(process.stdout.readline()))
            return found

        def nices() -> list[int]:
            return [os.getpriority(os.PRIO_PROCESS, pid) for pid in (process.pid, *forked)]

        try:
            assert process.stdout.readline() == b"ready\n"
            monkeypatch.setattr(priority, "may_raise_nice", lambda: True)
            monkeypatch.setattr(priority, "descendants", fork_behind)
            process.set_low(True)
            assert nices() == [LOWEST, NORMAL]
            watch = asyncio.create_task(process.watch(memory_limit=2**30, processes=10))
            await eventually(lambda: nices() == [LOWEST, LOWEST], PATIENCE_S)
            watch.cancel()
        finally:
            await process.kill()

    asyncio.run(scenario())


def test_a_process_that_is_gone_has_no_priority_to_set() -> None:
    assert set_priority(2**22 - 1, LOWEST)
