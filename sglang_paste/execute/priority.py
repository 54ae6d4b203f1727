"""The OS priority of a running tool.

Every tool leads a session of its own. Where the kernel schedules by sessions (autogroup, the default of most
distributions), a nice value counts only inside a session, and the session itself has one that its owner may lower
and raise again. Where it does not (in a container with a CPU controller), each thread's nice value counts, which
only root or a process with RLIMIT_NICE may raise again. Both are set; what this process could not undo is left alone.
"""

import functools
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

LOWEST = 19
NORMAL = 0
MAX_TREE = 65_536


def set_priority(leader: int, nice: int) -> bool:
    """Set the priority of the session that `leader` leads, with all its processes.

    False where the kernel asks for patience (an unprivileged process may do this ten times a second): try again.
    """
    set_nice(descendants(leader), nice)
    try:
        Path(f"/proc/{leader}/autogroup").write_text(str(nice))
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def set_nice(pids: Iterable[int], nice: int) -> None:
    """Set the nice value of all threads of these processes, where it counts and can be taken back.

    One that was being started while its parent was changed keeps the old value: call it again now and then.
    """
    if may_raise_nice():
        for thread in _threads(pids):
            with suppress(OSError):
                if os.getpriority(os.PRIO_PROCESS, thread) != nice:
                    os.setpriority(os.PRIO_PROCESS, thread, nice)


@functools.cache
def may_raise_nice() -> bool:
    """Whether this process may take back a lowered nice value; tried on a thread of its own."""
    allowed = []

    def probe() -> None:
        me = threading.get_native_id()
        with suppress(OSError):
            before = os.getpriority(os.PRIO_PROCESS, me)
            os.setpriority(os.PRIO_PROCESS, me, min(before + 1, LOWEST))
            os.setpriority(os.PRIO_PROCESS, me, before)
            allowed.append(True)

    thread = threading.Thread(target=probe, name="nice-probe")
    thread.start()
    thread.join()
    return bool(allowed)


def children(pid: int) -> list[int]:
    """The children of all threads of `pid`; none where it is gone."""
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                found += map(int, (task / "children").read_text().split())
    return found


def descendants(pid: int, most: int = MAX_TREE) -> list[int]:
    """`pid` and all below it, as they are now; at most about `most`."""
    found = [pid]
    for parent in found:
        if len(found) > most:
            break
        found += children(parent)
    return found


def _threads(pids: Iterable[int]) -> Iterator[int]:
    for pid in pids:
        with suppress(OSError):
            yield from map(int, os.listdir(f"/proc/{pid}/task"))
