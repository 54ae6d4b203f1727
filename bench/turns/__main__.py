"""`python -m bench.turns`: sessions of agents on stock SGLang and on ours, alternating in one run.

Both are real servers with the two-layer model, the same CPU attention and the same pool; stock has its radix cache on,
with LRU. Answers are scripted (the model runs in full, the sampled token is given), so that both sides have the same
conversation, with tool calls in it. The clients really are away while their tools run.
"""

import argparse
import json
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.cpu import record
from bench.turns import kvtrace, report
from bench.turns.play import Player, Row
from bench.turns.scenario import FULL, LARGE_POOL, QUICK, SMALL_POOL, Scenario, scenarios
from bench.turns.server import OURS, servers, tokenizer


def main() -> int:
    arguments = _parse()
    # So that the servers end with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    began = time.monotonic()
    traces = kvtrace.load(arguments.kvtrace)
    planned = scenarios(QUICK if arguments.quick else FULL, traces)
    if arguments.only:
        planned = [each for each in planned if f"{each.name}/{each.pool}".startswith(tuple(arguments.only))]
    if not planned:
        raise SystemExit(f"--only {' '.join(arguments.only)} names no scenario; fix-6 and coding-35/room are two")
    ours = () if arguments.control else (*OURS, *shlex.split(arguments.ours))
    rows: list[Row] = []
    for _ in _run(planned, {report.STOCK: (), report.OURS: ours}, rows):
        result: dict[str, Any] = {
            "quick": arguments.quick,
            "ours": list(ours),
            "kvtrace": "given" if arguments.kvtrace else "made up",
            "seconds": round(time.monotonic() - began),
            "summary": report.summary(rows),
            "groups": report.groups(rows),
        }
        if arguments.json:
            head = {"commit": record.commit(), "hardware": record.hardware(), "versions": record.versions()}
            arguments.json.write_bytes(msgspec.json.encode({**head, **result, "rows": rows}))
    report.show(result["groups"])
    print(json.dumps(result["summary"], indent=1))
    if not arguments.dry:
        print(f"added to {record.append('turns', result)}")
    return 0


def _run(planned: Sequence[Scenario], sides: dict[str, Sequence[str]], rows: list[Row]) -> Iterator[None]:
    """Add the rows of each scenario in turn; the servers of a pool are started once."""
    encode, end = tokenizer()
    with tempfile.TemporaryDirectory(prefix="bench-turns-") as folder:
        for pool, tokens in (("room", LARGE_POOL), ("pressure", SMALL_POOL)):
            chosen = [scenario for scenario in planned if scenario.pool == pool]
            if not chosen:
                continue
            with servers(Path(folder), tokens, sides) as running:
                player = Player(running, encode, end)
                for number, scenario in enumerate(chosen):
                    began = time.monotonic()
                    rows += player.play(number, scenario)
                    _progress(number, len(chosen), scenario, time.monotonic() - began, rows)
                    yield


def _progress(number: int, count: int, scenario: Scenario, seconds: float, rows: Sequence[Row]) -> None:
    last = [row for row in rows if (row.scenario, row.pool) == (scenario.name, scenario.pool) and row.run == number]
    medians = (report.spread(row.ttft_s for row in last if row.side == side)["p50"] for side in ("stock", "ours"))
    stock, ours = (f"{1e3 * median:.0f} ms" for median in medians)
    name = f"[{number + 1}/{count}] {scenario.name}, {scenario.pool}"
    print(
        f"{name}: median TTFT stock {stock}, ours {ours}; {seconds:.0f} s",
        file=sys.stderr,
        flush=True,
    )


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer repetitions: under 15 minutes on two cores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every row and the summary")
    parser.add_argument("--kvtrace", type=Path, metavar="FILE", help="recorded sessions to scale; else made-up ones")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these: fix-6, coding-35/room, …")
    parser.add_argument("--ours", default="", metavar="FLAGS", help="more flags of our server")
    parser.add_argument("--control", action="store_true", help="stock on both sides")
    parser.add_argument("--dry", action="store_true", help="nothing is added to the results")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
