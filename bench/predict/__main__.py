"""`python -m bench.predict --sessions PATH…`: what predicting takes in a long session with many patterns.

Patterns are those of a file, or mined from half of the sessions' tasks, and copied under other names until there are as
many as asked for. The sessions of the other half make one long session for each source. Each is observed and predicted
twice; both times the candidates must be the same, and some of them right. Times are of the second time, in the thread's
processor time, so that other programs on the machine do not count; the garbage collector runs as it likes. `both` is
what was observed since the call before, and the candidates; `latest` the last message of it alone, and the candidates.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.cpu import record
from bench.predict.long import Message, grown, long_sessions, size
from sglang_paste.calls import call_key, parse_arguments
from sglang_paste.mine.read import Reader
from sglang_paste.mine.split import Split
from sglang_paste.predict import load, patternfile
from sglang_paste.predict.mined import Candidate, Mined
from sglang_paste.predict.patterns import Patterns

LIMIT_US = 1000.0
LIMIT_MIB = 250
OFFERED = 5
HUGE = 1 << 20
ROWS = ("observe", "candidates", "latest", "both")


def main() -> int:
    """Run; 0 where the limits are kept and the predictions were right."""
    parser = argparse.ArgumentParser(prog="python -m bench.predict", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sessions", type=Path, nargs="+", required=True)
    parser.add_argument(
        "--patterns", type=Path, help="of `sglang-paste mine`; mined from half of the tasks if left out"
    )
    parser.add_argument("--count", type=int, default=10_000, help="patterns, by copying what was mined")
    parser.add_argument("--tokens", type=int, default=150_000, help="of each session, at 4 characters each")
    parser.add_argument("--save", action="store_true", help="append to bench/results")
    parser.add_argument("--mine", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.mine is not None:
        _mine(options.sessions, options.mine, options.count, options.patterns)
        return 0
    with tempfile.TemporaryDirectory(prefix="bench-predict-") as folder:
        path = Path(folder) / "patterns"
        # In a process of its own, so that its memory is not counted.
        given = [] if options.patterns is None else ["--patterns", str(options.patterns)]
        settings = ["--count", str(options.count), "--mine", str(path), *given]
        subprocess.run([sys.executable, "-m", "bench.predict", "--sessions", *options.sessions, *settings], check=True)
        return _measure(path, options)


def _mine(sessions: Sequence[Path], output: Path, count: int, patterns: Path | None) -> None:
    from sglang_paste.mine.learn import Miner

    if patterns is None:
        split = Split(Reader(sessions), 2)
        miner = Miner()
        for session in split.train(Reader(sessions), 1):
            miner.add(session)
        mined = miner.finish()
    else:
        mined = patternfile.load(patterns, Patterns)
    more = grown(mined, count)
    print(f"{size(mined):,} patterns mined, {size(more):,} with copies; {len(more.shapes):,} shapes")
    patternfile.save(output, more)


def _measure(path: Path, options: argparse.Namespace) -> int:
    before = _resident()
    began = time.perf_counter()
    mined = load(path)
    loaded = time.perf_counter() - began
    split = Split(Reader(options.sessions), 2)
    rows: list[dict[str, Any]] = []
    for source, session in long_sessions(split.test(Reader(options.sessions), 1), options.tokens):
        first, second = Run(mined, session), Run(mined, session)
        if first.offered != second.offered:
            print(f"{source}: other candidates the second time; no speed is worth printing")
            return 1
        rows.append({"source": source, "calls": len(second.both), "right": first.right, **second.summary()})
    if not any(row["right"] for row in rows):
        print("no candidate was right; no speed is worth printing")
        return 1
    _print(rows)
    huge = _huge(mined)
    resident = _resident()
    print(f"loaded in {loaded:.2f} s; {resident:.0f} MiB resident at the end, {before:.0f} before loading")
    print(f"a message of 1 MiB: {', '.join(f'{what} {us:.0f} µs' for what, us in huge.items())}")
    if options.save:
        record.append("predict", {"count": options.count, "rows": rows, "resident_mib": resident, "huge_us": huge})
    worst = max(row["both"]["p99"] for row in rows)
    return 0 if worst <= LIMIT_US and resident <= LIMIT_MIB else 1


class Run:
    """A session observed and predicted once: microseconds, and what was offered."""

    def __init__(self, mined: Mined, steps: Sequence[Sequence[Message]]) -> None:
        self.session = mined.session()
        self.observe: list[float] = []
        self.candidates: list[float] = []
        self.latest: list[float] = []
        self.both: list[float] = []
        self.offered: list[list[Candidate]] = []
        self.right = 0
        spent = 0.0
        for messages in steps:
            if any(message.get("tool_calls") for message in messages):
                spent += self._predict(messages)
                self.both.append(spent)
                spent = 0.0
            for message in messages:
                began = time.thread_time_ns()
                self.session.observe(message)
                self.observe.append((time.thread_time_ns() - began) / 1e3)
                spent += self.observe[-1]

    def summary(self) -> dict[str, dict[str, float]]:
        """Quantiles of each row."""
        return {row: quantiles(getattr(self, row)) for row in ROWS}

    def _predict(self, messages: Sequence[Message]) -> float:
        began = time.thread_time_ns()
        found = self.session.candidates(OFFERED)
        took = (time.thread_time_ns() - began) / 1e3
        self.candidates.append(took)
        self.latest.append(took + sum(self.observe[-1:]))
        self.offered.append(found)
        made = next(message["tool_calls"][0]["function"] for message in messages if message.get("tool_calls"))
        key = call_key(made["name"], parse_arguments(made["arguments"]), ())
        self.right += any(call_key(one.tool, one.arguments, ()) == key for one in found)
        return took


def quantiles(times: Sequence[float]) -> dict[str, float]:
    """p50, p99 and the longest."""
    ordered = sorted(times)
    last = len(ordered) - 1
    return {name: round(ordered[min(int(q * len(ordered)), last)], 1) for name, q in (("p50", 0.5), ("p99", 0.99))} | {
        "max": round(ordered[-1], 1)
    }


def _huge(mined: Mined) -> dict[str, float]:
    found = {}
    text = "".join(f"src/a{at}/b_{at}.py: `call_{at}(x)` of Ada Lovelace {at}\n" for at in range(HUGE // 45))[:HUGE]
    for role in ("system", "user", "assistant", "tool"):
        session = mined.session()
        began = time.thread_time_ns()
        session.observe({"role": role, "content": text, "name": "read"})
        found[role] = (time.thread_time_ns() - began) / 1e3
    return found


def _print(rows: Sequence[dict[str, Any]]) -> None:
    print(f"{'µs':20}{'calls':>7}{'right':>7}" + "".join(f"{row + ' p50':>16}{'p99':>8}" for row in ROWS))
    for row in rows:
        times = "".join(f"{row[name]['p50']:16.0f}{row[name]['p99']:8.0f}" for name in ROWS)
        print(f"{row['source']:20}{row['calls']:7}{row['right']:7}{times}")


def _resident() -> float:
    """MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    sys.exit(main())
