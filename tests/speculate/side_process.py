"""A side process for tests of its supervisor: `python side_process.py MODE`, settings on standard input."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import msgspec

from sglang_paste.config import Settings
from sglang_paste.speculate.supervisor import leave_refusal
from sglang_paste.wire.bus import SideBus


async def serve(settings: Settings, *, hang_after: int | None) -> None:
    bus = SideBus(settings.run_dir)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: os._exit(0))
    with socket.create_server((settings.gateway_host, settings.gateway_port)):
        heard = 0
        while True:
            await bus.recv()
            heard += 1
            if hang_after is None or heard <= hang_after:
                bus.ping_all()


def main() -> None:
    mode = sys.argv[1]
    settings = msgspec.json.decode(sys.stdin.buffer.read(), type=Settings)
    with Path(settings.state_dir, "starts").open("a") as starts:
        starts.write(f"{os.getpid()} {settings.api_key}\n")
    first = Path(settings.state_dir, "starts").read_text().count("\n") == 1
    if mode == "refuse" or (mode == "refuse-later" and not first):
        leave_refusal(settings.run_dir, "speculator", "the port is taken")
        sys.exit(2)
    if mode == "crash" or (mode == "refuse-later" and first):
        sys.exit(1)
    asyncio.run(serve(settings, hang_after=1 if mode == "hang" and first else None))


if __name__ == "__main__":
    main()
