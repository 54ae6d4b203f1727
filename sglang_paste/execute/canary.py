"""The proof of the sandbox: a program that tries to get out, run before any tool is."""

import asyncio
import json
import os
import socket
import sys
import tempfile
from pathlib import Path

from sglang_paste.errors import ConfigError
from sglang_paste.execute.process import Capture, Overrun, Process, communicate
from sglang_paste.execute.sandbox import Confinement, search_path, wrap

PATIENCE_S = 20.0
GRANT = Confinement(memory_limit=512 * 1024 * 1024, processes=32)

ATTEMPTS = """
import json, os, socket, sys, time
secret, outside, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
escapes = []
def attempt(what, act):
    try:
        act()
    except OSError:
        return
    escapes.append(what)
attempt("read a file of the host", lambda: open(secret).close())
attempt("write a file of the host", lambda: open(outside, "x").close())
attempt("write to /usr", lambda: open("/usr/canary", "x").close())
attempt("reach the network", lambda: socket.create_connection(("127.0.0.1", port), 2))
print(json.dumps(escapes), flush=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(3600)
    os._exit(0)
"""


async def prove_sandbox() -> str | None:
    """None where the sandbox holds; else why there is none, in one sentence."""
    try:
        with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as listener:
            targets = [_secret(folder), os.path.join(folder, "outside"), str(listener.getsockname()[1])]
            argv = wrap([sys.executable, "-I", "-S", "-c", ATTEMPTS, *targets], GRANT)
            async with asyncio.timeout(PATIENCE_S):
                return await _run(argv)
    except ConfigError as error:
        return str(error)
    except TimeoutError:
        return f"the sandbox took more than {PATIENCE_S:g} s to start and end a small program"
    except OSError as error:
        return f"the sandbox cannot be started: {error}"


def _secret(folder: str) -> str:
    path = Path(folder, "secret")
    path.write_text("what no tool may see")
    return str(path)


async def _run(argv: list[str]) -> str | None:
    out, err = Capture(4096), Capture(4096)
    process = Process(argv, environment={"PATH": search_path()}, folder=None, low=False, confined=True)
    try:
        code = await communicate(process, b"", (out, err), (GRANT.memory_limit, GRANT.processes))
    except Overrun as overrun:
        return f"the sandbox does not hold a small program: {overrun}"
    finally:
        survivors = await process.kill()
    if code != 0:
        return f"the sandbox cannot be started ({err.text.strip() or f'exit code {code}'}); allow user namespaces"
    escapes = json.loads(out.text)
    if escapes:
        return f"the sandbox does not hold: a program in it could {' and '.join(escapes)}"
    return f"the sandbox leaves {survivors} processes behind" if survivors else None
