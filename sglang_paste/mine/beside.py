"""Work done beside one's own, in a forked process."""

import os
import sys
from collections.abc import Callable


def beside(work: Callable[[], bytes]) -> Callable[[], bytes]:
    """Begin `work` in a copy of this process; what is returned waits for it and gives what it gave.

    Where the copy fails, or none can be made, the work is done here.
    """
    if sys.platform != "linux":
        return work
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        code = 1
        try:
            os.close(reading)
            with os.fdopen(writing, "wb") as pipe:
                pipe.write(work())
            code = 0
        finally:
            os._exit(code)
    os.close(writing)

    def finished() -> bytes:
        with os.fdopen(reading, "rb") as pipe:
            found = pipe.read()
        _, status = os.waitpid(process, 0)
        return found if status == 0 else work()

    return finished
