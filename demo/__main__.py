"""The same tasks by the same agent on stock SGLang and with tool speculation, alternating.

Prints a table and writes a timeline. Exit code 1 when the two sides did not have the same conversations: then no
time is worth printing.
"""

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import httpx
import msgspec

from demo.agent import Agent, TaskRun, Tools
from demo.control import in_lockstep, step_changes
from demo.page import write_page
from demo.servers import TOKEN, Processes, Side, start_sides
from demo.tasks import TASKS, Task
from sglang_paste.observe.spans import Span

HITS = ("reused", "joined", "promoted")


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """A task done once on each side, and what ran early meanwhile."""

    stock: TaskRun
    paste: TaskRun
    spans: tuple[Span, ...]

    @property
    def hits(self) -> Counter[str]:
        return Counter(step.outcome for step in self.paste.steps if step.outcome in HITS)

    @property
    def wasted(self) -> int:
        """Runs that nobody claimed."""
        return sum(1 for span in self.spans if span.lane == "speculative" and span.outcome != "claimed")


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of the model to serve")
    parser.add_argument("--rounds", type=int, default=1, help="how often each task is done on each side (default 1)")
    parser.add_argument("--tasks", type=int, default=len(TASKS), help="how many of the tasks are done (default all)")
    parser.add_argument(
        "--control",
        choices=("same", "wasted"),
        help="instead compare stock with itself (same), or with speculation of which nothing is ever used (wasted)",
    )
    parser.add_argument("--output", type=Path, default=Path("demo/timeline.html"), help="the page to write")
    parser.add_argument("--json", type=Path, help="write the numbers here, too")
    parser.add_argument("--logs", type=Path, default=Path(".cache/demo-logs"), help="where the servers' logs go")
    args = parser.parse_args()
    # Ended from outside, the servers end as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = time.monotonic()

    def progress(text: str) -> None:
        print(f"[{time.monotonic() - started:5.0f} s] {text}", flush=True)

    processes = Processes(args.logs)
    try:
        with tempfile.TemporaryDirectory(prefix="sglang-paste-demo-") as state:
            progress(f"starting both sides{f', control {args.control}' if args.control else ''}")
            sides = start_sides(processes, args.model, Path(state), args.control)
            urls = {url for side in sides for url in (side.model_url, side.tools_url, side.spans_url)}
            processes.wait_until_healthy(sorted(urls), progress)
            processes.pin([side.name for side in sides], min(os.sched_getaffinity(0)))
            agents = warm_agents(sides, progress)
            tasks = TASKS[: args.tasks]
            run = run_control if args.control else run_tasks
            pairs = run(agents, sides[1], tasks, args.rounds, progress)
    except RuntimeError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    finally:
        processes.stop()
    return report(pairs, None if args.control else args.output, args.json)


def warm_agents(sides: tuple[Side, Side], progress: Callable[[str], None]) -> Mapping[str, Agent]:
    """An agent for each side that has done a step."""
    first = msgspec.structs.replace(TASKS[0], steps=TASKS[0].steps[:1])
    agents = {side.name: Agent(side.model_url, Tools(side.tools_url, TOKEN), TOKEN) for side in sides}
    for name, agent in agents.items():
        agent.run(first, lambda step, name=name: progress(f"warm-up on {name}: {step}"))  # type: ignore[misc]
    return agents


def run_control(
    agents: Mapping[str, Agent], side: Side, tasks: Sequence[Task], rounds: int, progress: Callable[[str], None]
) -> list[Pair]:
    """Every task `rounds` times, step by step on both sides."""
    began = time.monotonic()
    runs = in_lockstep(agents, tasks, rounds, side, progress)
    wasted = _spans(side, began, time.monotonic())
    return [Pair(stock=run["stock"], paste=run["paste"], spans=wasted if run is runs[-1] else ()) for run in runs]


def run_tasks(
    agents: Mapping[str, Agent], side: Side, tasks: Sequence[Task], rounds: int, progress: Callable[[str], None]
) -> list[Pair]:
    """Every task `rounds` times on each side; the side that goes first alternates."""
    pairs: list[Pair] = []
    for number in range(rounds):
        for place, task in enumerate(tasks):
            runs: dict[str, TaskRun] = {}
            began = time.monotonic()
            for name in sorted(agents, reverse=(number + place) % 2 == 0):
                if name == "paste":
                    began = time.monotonic()
                runs[name] = agents[name].run(task)
                progress(f"round {number + 1}/{rounds}, {task.name} on {name}: {runs[name].seconds:.1f} s")
            spans = _spans(side, began, began + runs["paste"].seconds + 1)
            pairs.append(Pair(stock=runs["stock"], paste=runs["paste"], spans=spans))
    return pairs


def report(pairs: Sequence[Pair], page: Path | None, numbers: Path | None) -> int:
    """Print what came of the pairs; without a page to write they are a control's."""
    different = [pair for pair in pairs if pair.stock.conversation != pair.paste.conversation]
    for pair in different:
        print(f"demo: the conversations of {pair.stock.task} differ", file=sys.stderr)
        for ours, theirs in zip(pair.paste.conversation, pair.stock.conversation, strict=False):
            if ours != theirs:
                print(f"  stock: {theirs}\n  paste: {ours}", file=sys.stderr)
    if different:
        return 1
    print(f"\nThe conversations are identical in all {len(pairs)} pairs.\n")
    print(f"{'task':12}{'stock':>9}{'paste':>9}{'change':>9}   tools awaited      hits{'wasted':>12}")
    for pair in pairs:
        change = pair.paste.seconds / pair.stock.seconds - 1
        exposed = f"{pair.stock.exposed:.1f} → {pair.paste.exposed:.1f} s"
        hits = sum(pair.hits.values())
        calls = len(pair.paste.steps) - 1
        print(
            f"{pair.stock.task:12}{pair.stock.seconds:7.1f} s{pair.paste.seconds:7.1f} s{change:+9.1%}   "
            f"{exposed:18} {hits} of {calls}{pair.wasted:10}"
        )
    summary = summarise(pairs)
    if page is None:
        summary |= step_changes([(pair.stock, pair.paste) for pair in pairs])
    print("\n" + "\n".join(f"{name.replace('_', ' '):28}{value}" for name, value in summary.items()))
    if page is not None:
        last = pairs[-len({pair.stock.task for pair in pairs}) :]
        write_page(page, [(pair.stock, pair.paste, pair.spans) for pair in last])
        print(f"\nThe timeline is in {page}.")
    if numbers is not None:
        numbers.write_text(json.dumps({"summary": summary, "pairs": msgspec.to_builtins(pairs)}, indent=1))
    return 0


def summarise(pairs: Sequence[Pair]) -> dict[str, float | int]:
    """Medians are over pairs; a negative change is time saved."""
    stock, paste = sum(p.stock.seconds for p in pairs), sum(p.paste.seconds for p in pairs)
    waited = sum(p.stock.exposed for p in pairs), sum(p.paste.exposed for p in pairs)
    hits = sum((p.hits for p in pairs), Counter[str]())
    return {
        "task_time_change_pct": round(100 * (paste / stock - 1), 1),
        "median_change_pct": round(100 * statistics.median(p.paste.seconds / p.stock.seconds - 1 for p in pairs), 1),
        "tool_share_on_stock_pct": round(100 * waited[0] / stock, 1),
        "tool_wait_change_pct": round(100 * (waited[1] / waited[0] - 1), 1),
        "calls": sum(len(p.paste.steps) - 1 for p in pairs),
        **{f"hits_{kind}": hits[kind] for kind in HITS},
        "wasted_runs": sum(p.wasted for p in pairs),
    }


def _spans(side: Side, start: float, end: float) -> tuple[Span, ...]:
    answer = httpx.get(f"{side.spans_url}/v1/spans", headers={"authorization": f"Bearer {TOKEN}"}, timeout=30)
    spans = msgspec.convert(answer.raise_for_status().json()["spans"], list[Span])
    return tuple(span for span in spans if start <= span.start < end)


if __name__ == "__main__":
    sys.exit(main())
