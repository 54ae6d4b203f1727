"""What a claim costs at the client: a result that is ready, over loopback on a kept connection.

`python -m bench.gateway` prints a table and adds it to results/gateway.jsonl. The limit is 2 ms at p50.
On a machine that is busy with something else, `chrt -r 5` before it keeps that out of the numbers.
"""

import argparse
import http.client
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.cpu.record import append, spread
from bench.side import SideProcess, ask

LIMIT_S = 2e-3
SCHEDULERS = {os.SCHED_OTHER: "normal", os.SCHED_RR: "real-time"}
AT_ONCE = 16
SESSIONS = 4
TOOLS = """
[tools.say]
kind = "command"
description = "Says it again."
argv = ["/bin/echo", "-n", "{text}"]
effect = "pure"
observes = "local"
speculate = true
concurrency = 8
[tools.say.parameters]
type = "object"
properties = {text = {type = "string"}}
required = ["text"]
additionalProperties = false
[limits]
speculative = 8
per_session = 8
per_tool = 8
"""


def main() -> int:
    """Run; 0 where every answer was right and the limit is kept."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("-n", type=int, default=480, help="claims of each kind")
    parser.add_argument("--no-record", action="store_true", help="only print")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="paste-") as folder:
        side = SideProcess(Path(folder), TOOLS)
        side.start()
        try:
            side.wait_ready()
            times = measure(side, options.n)
        finally:
            side.stop()
    rows = {name: spread(each) for name, each in times.items()}
    print(f"{'':34}{'n':>6}{'p50 ms':>10}{'p95 ms':>10}")
    for name, row in rows.items():
        print(f"{name:34}{row['n']:6}{row['p50_s'] * 1e3:10.2f}{row['p95_s'] * 1e3:10.2f}")
    if not options.no_record:
        append("gateway", {"scheduler": SCHEDULERS.get(os.sched_getscheduler(0), "other"), "claims": rows})
    slow = [name for name, row in rows.items() if name.startswith("claim") and row["p50_s"] > LIMIT_S]
    if slow:
        print(f"over {LIMIT_S * 1e3:.0f} ms: {', '.join(slow)}", file=sys.stderr)
    return 1 if slow else 0


def measure(side: SideProcess, claims: int) -> dict[str, list[float]]:
    """Seconds per request by kind. Raises AssertionError for a wrong answer."""
    kinds: dict[str, dict[str, Any]] = {"claim": {}, "claim with call id": {"call_id": ""}, "claim with session": {}}
    times: dict[str, list[float]] = {"GET /health": [], **{kind: [] for kind in kinds}, "run (nothing is ready)": []}
    connection = side.connect()
    ready = 0
    for first in range(0, claims, AT_ONCE):
        for kind in kinds:
            texts = [f"{kind} {number}" for number in range(first, first + AT_ONCE)]
            for at in range(SESSIONS):
                side.announce("say", [{"text": text} for text in texts[at::SESSIONS]], f"s{at}")
            ready += len(texts)
            wait_for(side, ready)
            for number, text in enumerate(texts):
                body: dict[str, Any] = {"arguments": {"text": text}}
                body |= {"call_id": f"{first} {text}"} if "id" in kind.split() else {}
                body |= {"session": f"s{number % SESSIONS}"} if "session" in kind else {}
                times[kind].append(claim(connection, body, "reused"))
        times["GET /health"].append(_timed(connection, "GET", "/health")[0])
        body = {"arguments": {"text": f"run {first}"}}
        times["run (nothing is ready)"].append(claim(connection, body, "run"))
        ready += 1
    connection.close()
    return times


def claim(connection: http.client.HTTPConnection, body: dict[str, Any], outcome: str) -> float:
    """Seconds for one call, whose answer must be right."""
    seconds, status, answer = _timed(connection, "POST", "/v1/tools/say", body)
    assert status == 200, answer
    assert (answer["content"], answer["outcome"]) == (body["arguments"]["text"], outcome), answer
    return seconds


def wait_for(side: SideProcess, runs: int) -> None:
    """Until so many runs of the tool are over."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        side.beat()
        _, text = side.ask("GET", "/metrics")
        if f'paste_tool_seconds_count{{tool="say"}} {float(runs)}' in text:
            return
        time.sleep(0.02)
    raise AssertionError(f"{runs} runs were not over in time")


def _timed(connection: http.client.HTTPConnection, method: str, path: str, body: Any = None) -> tuple[float, int, Any]:
    started = time.perf_counter()
    status, answer = ask(connection, method, path, body)
    return time.perf_counter() - started, status, answer


if __name__ == "__main__":
    sys.exit(main())
