"""`python -m bench.replay.simulate [ROWS]`: the model beside the rows of a real replay, and then 64, 1,000 and 100,000
sessions on fleets of servers."""

import argparse
import sys
from pathlib import Path

import msgspec

from bench.replay import recording
from bench.replay.records import read_rows
from bench.replay.report.page import page
from bench.replay.simulate import shapes
from bench.replay.simulate.fleet import LOADS
from bench.replay.simulate.run import POOL, SIZES, as_json, show, simulate


def main() -> int:
    arguments = _parse()
    rows = read_rows(arguments.rows) if arguments.rows else []
    recordings = [recording.record(each) for each in recording.read(arguments.sessions)] if arguments.sessions else []
    sessions = shapes.recorded(recordings)
    found = simulate(rows, arguments.pool, arguments.loads, arguments.fleets, sessions)
    show(found)
    if arguments.json:
        arguments.json.write_bytes(msgspec.json.encode(as_json(found)))
    if arguments.output:
        arguments.output.write_text(page("Replay, simulated", "", found.sections), encoding="utf-8")
        print(f"wrote {arguments.output}")
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.replay.simulate", description=__doc__)
    parser.add_argument("rows", type=Path, nargs="?", help="rows or a report of python -m bench.replay")
    parser.add_argument("--pool", type=int, default=POOL, metavar="TOKENS", help="the KV cache that the rows had")
    parser.add_argument("--loads", type=int, nargs="*", default=LOADS, metavar="N", help="sessions on one server")
    parser.add_argument("--fleets", type=int, nargs="*", default=SIZES, metavar="N", help="sessions on fleets")
    parser.add_argument("--sessions", nargs="+", type=Path, metavar="PATH", help="for fleets; else made-up ones")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write a page")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
