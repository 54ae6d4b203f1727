"""Work spread over processes, forked so that they begin with all that is known here."""

import os
import struct
import sys
from collections.abc import Callable, Sequence
from typing import BinaryIO

MAX_PROCESSES = 8
_LENGTH = struct.Struct("<Q")
Work = Callable[[int], bytes]


def spread(work: Work, count: int, processes: int | None = None) -> list[bytes]:
    """What `work` gives for 0 to `count` - 1, in order, done in as many processes as there are cores (or `processes`).

    It must give the same wherever it is done: where a process fails, or none can be made, its share is done here.
    """
    most = max(1, min(_cores() if processes is None else processes, count, MAX_PROCESSES))
    shares = [range(number, count, most) for number in range(most)]
    readers = [_begin(work, share) for share in shares[1:]]
    found: list[bytes] = [b""] * count
    for share, finish in zip(shares, [lambda: None, *readers], strict=True):
        done = finish()
        for place, result in zip(share, map(work, share) if done is None else done, strict=True):
            found[place] = result
    return found


def _begin(work: Work, share: Sequence[int]) -> Callable[[], list[bytes] | None]:
    """Begin a share in a process of its own; what is returned waits for it, and gives None where it failed."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        code = 1
        try:
            os.close(reading)
            with os.fdopen(writing, "wb") as pipe:
                for number in share:
                    result = work(number)
                    pipe.write(_LENGTH.pack(len(result)))
                    pipe.write(result)
            code = 0
        finally:
            os._exit(code)
    os.close(writing)

    def finished() -> list[bytes] | None:
        with os.fdopen(reading, "rb") as pipe:
            found = [_read(pipe) for _ in share]
        _, status = os.waitpid(process, 0)
        return found if status == 0 else None

    return finished


def _read(pipe: BinaryIO) -> bytes:
    head = pipe.read(_LENGTH.size)
    return pipe.read(_LENGTH.unpack(head)[0]) if len(head) == _LENGTH.size else b""


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1
