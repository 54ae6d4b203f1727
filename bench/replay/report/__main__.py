"""`python -m bench.replay.report ROWS -o report.html`: what a replay's rows come to, as a table, JSON and one page."""

import argparse
import json
import sys
from pathlib import Path

import msgspec

from bench.replay.records import read_rows
from bench.replay.report.build import as_json, as_page, as_text
from bench.replay.report.compare import Rows
from bench.replay.report.summary import numbers


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.replay.report", description=__doc__)
    parser.add_argument("rows", type=Path, help="rows or a report of python -m bench.replay")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the page")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers")
    arguments = parser.parse_args()
    rows = read_rows(arguments.rows)
    if not rows:
        parser.error(
            f"{arguments.rows} has no whole block of rows; python -m bench.replay --json {arguments.rows} does"
        )
    found = as_json(rows)
    print(as_text(numbers(Rows(rows))))
    print(json.dumps(found["summary"], indent=1))
    if arguments.json:
        arguments.json.write_bytes(msgspec.json.encode(found))
    if arguments.output:
        arguments.output.write_text(as_page(rows), encoding="utf-8")
        print(f"wrote {arguments.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
