"""`kill -9` of the side process at random moments: no call id executes twice, and the tools come back.

`python -m bench.chaos --kills 100` prints what happened; the exit code is 1 where a promise was broken.

Clients append lines to a file, each call with an id of its own, and repeat a call until it is answered for good. After
all kills every line that was promised (200) is there once, and one whose outcome is unknown (409) at most once.
"""

import argparse
import http.client
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from bench.side import SideProcess

CLIENTS = 4
TOOLS = """
[tools.append]
kind = "command"
description = "Appends a line to lines.txt."
argv = ["/bin/sh", "-c", 'sleep 0.01; echo "$0" >> lines.txt; sleep 0.01', "{{line}}"]
effect = "write"
writes = ["lines"]
observes = "local"
workspace = {folder}
concurrency = 4
[tools.append.parameters]
type = "object"
properties = {{line = {{type = "string"}}}}
required = ["line"]
additionalProperties = false
[tools.count]
kind = "command"
description = "Counts lines."
argv = ["wc", "-l", "{{file}}"]
effect = "read"
reads = ["lines"]
observes = "local"
speculate = true
workspace = {folder}
[tools.count.parameters]
type = "object"
properties = {{file = {{type = "string"}}}}
required = ["file"]
additionalProperties = false
"""


class Clients:
    """Threads that make calls, each until it has an answer that is for good."""

    def __init__(self, side: SideProcess, *, with_ids: bool = True) -> None:
        self.promised: list[str] = []
        self.unknown: list[str] = []
        self.wrong: list[str] = []
        self.outcomes: Counter[str] = Counter()
        self.retries = 0
        self._side = side
        self._with_ids = with_ids
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(number,), daemon=True) for number in range(CLIENTS)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """After the calls that are under way."""
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _work(self, number: int) -> None:
        made = 0
        while not self._stop.is_set():
            made += 1
            if made % 4 == 0:
                self._count(f"client-{number}")
            else:
                self._append(f"{number}-{made}")

    def _append(self, line: str) -> None:
        named = {"call_id": line} if self._with_ids else {}
        status, answer = self._insist("append", {"arguments": {"line": line}, **named})
        if status == 200:
            self.promised.append(line)
            self.outcomes[answer["outcome"]] += 1
        elif status == 409:
            self.unknown.append(line)
            self.outcomes["unknown"] += 1
        else:
            self.wrong.append(f"{line}: {status} {answer}")

    def _count(self, session: str) -> None:
        """What was announced is what is asked for; no answer may be older than a line that this thread was promised."""
        least = len(self.promised)
        self._side.announce("count", [{"file": "lines.txt"}], session)
        time.sleep(random.random() * 0.05)
        status, answer = self._insist("count", {"arguments": {"file": "lines.txt"}, "session": session})
        if status != 200 or answer["is_error"]:
            self.wrong.append(f"count: {status} {answer}")
        elif int(answer["content"].split()[0]) < least:
            self.wrong.append(f"count: {answer} though {least} lines were promised before")
        else:
            self.outcomes[f"count {answer['outcome']}"] += 1

    def _insist(self, tool: str, body: dict[str, Any]) -> tuple[int, Any]:
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            try:
                status, answer = self._side.ask("POST", f"/v1/tools/{tool}", body)
            except (OSError, http.client.HTTPException, ValueError):
                self.retries += 1
                time.sleep(0.05)
                continue
            if status != 503:
                return status, answer
            time.sleep(0.05)
        return 0, "no answer in 300 s"


def main() -> int:
    """Run; 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--without-ids", action="store_true", help="break the promise: this has to be noticed")
    options = parser.parse_args()
    random.seed(options.seed)
    with tempfile.TemporaryDirectory(prefix="paste-") as folder:
        return run(Path(folder), options.kills, options.seed, with_ids=not options.without_ids)


def run(folder: Path, kills: int, seed: int, *, with_ids: bool) -> int:
    """Kill and look; prints a report."""
    workspace = folder / "workspace"
    workspace.mkdir()
    lines = workspace / "lines.txt"
    lines.touch()
    side = SideProcess(folder, TOOLS.format(folder=json.dumps(str(workspace))))
    side.start()
    side.wait_ready()
    clients = Clients(side, with_ids=with_ids)
    clients.start()
    started = time.monotonic()
    try:
        for _ in range(kills):
            # One kill in five hits the start.
            if random.random() > 0.2:
                side.wait_ready()
            time.sleep(random.random() * 0.8)
            side.kill()
            side.start()
        side.wait_ready()
    finally:
        clients.stop()
        side.stop()
    return report(
        clients, lines.read_text().split(), f"{kills} kills in {time.monotonic() - started:.0f} s, seed {seed}"
    )


def report(clients: Clients, lines: list[str], title: str) -> int:
    """Print what happened and what was broken."""
    times = Counter(lines)
    broken = [f"{line} is there {times[line]} times" for line in clients.promised if times[line] != 1]
    broken += [f"{line} is there {times[line]} times" for line in clients.unknown if times[line] > 1]
    broken += clients.wrong
    print(f"{title}: {len(clients.promised)} calls promised, {len(clients.unknown)} unknown, {clients.retries} retries")
    print(", ".join(f"{name} {number}" for name, number in sorted(clients.outcomes.items())))
    for sentence in broken[:20]:
        print(f"broken: {sentence}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
