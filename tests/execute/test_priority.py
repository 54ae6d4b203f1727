import asyncio
import os
import sys
from pathlib import Path

from tool_bench import Bench, eventually, launch

from sglang_paste.execute.catalog import Catalog
from sglang_paste.execute.priority import LOWEST, NORMAL, children, descendants, may_raise_nice, set_priority

SPIN = """
import os, sys, time
os.sched_setaffinity(0, {int(sys.argv[1])})
end = time.perf_counter() + 1.5
while time.perf_counter() < end:
    pass
print(time.process_time())
"""
TOML = f"""
[tools.spin]
kind = "command"
argv = ["{sys.executable}", "-c", {SPIN!r}, "{{core}}"]
parameters = {{type = "object", properties = {{core = {{type = "integer"}}}}}}
""".replace(repr(SPIN), "'''" + SPIN.replace("{", "{{").replace("}", "}}") + "'''")


def core() -> int:
    return max(os.sched_getaffinity(0))


def autogroup(pid: int) -> int:
    return int(Path(f"/proc/{pid}/autogroup").read_text().rsplit(" ", 1)[1])


def test_a_speculative_run_yields_until_it_is_promoted(bench: Bench) -> None:
    async def pair(catalog: Catalog, *, promote: bool) -> tuple[float, float]:
        real = launch(catalog, "spin", core=core())
        early = launch(catalog, "spin", core=core(), speculative=True)
        await eventually(lambda: len(_spinning()) == 2)
        if promote:
            early.promote()
        outcomes = await asyncio.gather(real.wait(), early.wait())
        return float(outcomes[0].content), float(outcomes[1].content)

    async def scenario(catalog: Catalog) -> None:
        real, early = await pair(catalog, promote=False)
        assert early < real / 3
        real, early = await pair(catalog, promote=True)
        assert early > real / 3

    bench.use(TOML, scenario)


def _spinning() -> list[int]:
    return [pid for child in children(os.getpid()) for pid in descendants(child) if _is_spin(pid)]


def _is_spin(pid: int) -> bool:
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return line.startswith(sys.executable.encode()) and b"sched_setaffinity" in line


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

    assert asyncio.run(scenario()).decode().strip() == str([False, LOWEST, 0, NORMAL, 0])


def test_nice_values_are_set_as_well_where_they_can_be_taken_back(bench: Bench) -> None:
    async def scenario(catalog: Catalog) -> None:
        run = launch(catalog, "spin", core=core(), speculative=True)
        await eventually(lambda: len(_spinning()) == 1)
        (pid,) = _spinning()
        assert autogroup(pid) == LOWEST
        assert os.getpriority(os.PRIO_PROCESS, pid) == (LOWEST if may_raise_nice() else NORMAL)
        run.promote()
        assert autogroup(pid) == NORMAL
        assert os.getpriority(os.PRIO_PROCESS, pid) == NORMAL
        await run.cancel()

    bench.use(TOML, scenario)


def test_a_process_that_is_gone_has_no_priority_to_set() -> None:
    assert set_priority(2**22 - 1, LOWEST)
