"""Work spread over processes, forked so that they begin with all that is known here."""

import os
import struct
import sys
from collections.abc import Callable, Iterator
from typing import BinaryIO

MAX_PROCESSES = 8
MAX_COUNT = 8192  # numbers that fit into a pipe at once
_NUMBER = struct.Struct("<I")
_HEAD = struct.Struct("<IQ")
Work = Callable[[int], bytes]


def spread(work: Work, count: int, processes: int | None = None) -> list[bytes]:
    """What `work` gives for 0 to `count` - 1, done in as many processes as there are cores (or `processes`), each of
    which takes the next number when it is done with one.

    It must give the same wherever it is done: what a process does not give is done here.
    """
    most = min(_cores() if processes is None else processes, count, MAX_PROCESSES)
    if most < 2 or count > MAX_COUNT:
        return [work(number) for number in range(count)]
    taking, giving = os.pipe()
    os.write(giving, b"".join(map(_NUMBER.pack, range(count))))
    os.close(giving)
    try:
        readers = [_begin(work, taking) for _ in range(most - 1)]
        found = dict(_done(work, taking))
    finally:
        os.close(taking)
    for finish in readers:
        found.update(finish())
    return [found[number] if number in found else work(number) for number in range(count)]


def _done(work: Work, taking: int) -> Iterator[tuple[int, bytes]]:
    while data := os.read(taking, _NUMBER.size):
        (number,) = _NUMBER.unpack(data)
        yield number, work(number)


def _begin(work: Work, taking: int) -> Callable[[], dict[int, bytes]]:
    """Begin a process that takes numbers; what is returned waits for it, and gives what it did whole."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        code = 1
        try:
            os.close(reading)
            # Written once all is done: who reads is busy with numbers of its own until then.
            done = list(_done(work, taking))
            with os.fdopen(writing, "wb") as pipe:
                for number, result in done:
                    pipe.write(_HEAD.pack(number, len(result)))
                    pipe.write(result)
            code = 0
        finally:
            os._exit(code)
    os.close(writing)

    def finished() -> dict[int, bytes]:
        with os.fdopen(reading, "rb") as pipe:
            found = dict(_results(pipe))
        os.waitpid(process, 0)
        return found

    return finished


def _results(pipe: BinaryIO) -> Iterator[tuple[int, bytes]]:
    while len(head := pipe.read(_HEAD.size)) == _HEAD.size:
        number, length = _HEAD.unpack(head)
        result = pipe.read(length)
        if len(result) == length:
            yield number, result


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1
