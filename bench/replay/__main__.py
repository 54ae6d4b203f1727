"""`python -m bench.replay`: recorded sessions of agents, played against stock SGLang and against ours in a closed loop.

The servers are real, the model's answers are the recorded ones (it computes every token; see bench.forced), and tools
take their recorded time, scaled so that they have the wanted share of a task. Without --sessions, sessions are played
that were made up for it. A run in which an answer, a result or the number of executions is wrong has no numbers.
"""

import argparse
import asyncio
import json
import shlex
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.cpu import record
from bench.replay import made_up, plan, recording, train
from bench.replay.client import MAX_TOKENS, Diverged
from bench.replay.complete import require_as_stock
from bench.replay.play import Cast, Player
from bench.replay.recording import Recording, Wanted
from bench.replay.records import RUNS, Block, Place, Report, Row, Run, Setting, Task, append_rows, read_rows
from bench.replay.report.build import as_text
from bench.replay.report.compare import Rows
from bench.replay.report.page import page
from bench.replay.report.summary import numbers, summary
from bench.replay.script import Speaker, offered
from bench.replay.servers import LIMITS, running, server_of, write_tools
from bench.replay.simulate.run import SIZES, simulate
from bench.replay.simulate.shapes import recorded
from bench.replay.simulate.validate import sim_error_pct, validate
from bench.replay.toolserver import ToolServer
from bench.turns.server import MODEL, Server
from sglang_paste.errors import ConfigError
from sglang_paste.mine.records import Session

QUICK: tuple[Run, ...] = ("A", "A2", "B", "F", "same", "wrong")
# What --quick plays takes no longer, as far as a first block tells.
QUICK_S = 360.0
MADE_UP = 60


class Production:
    """All blocks of one call of the bench."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        recordings: list[Recording],
        known: list[Recording],
        recurring: frozenset[str],
    ) -> None:
        self._arguments = arguments
        speaker = Speaker(arguments.model)
        self.schemas = recording.schemas(known)
        tools = {
            source: offered({name: self.schemas[name] for name in names})
            for source, names in recording.tools(known).items()
        }
        recordings = _with_room(recordings, speaker, tools, arguments.pool)
        self._recordings = recordings
        self._settings = len(arguments.agents) * len(arguments.tool_share)
        count = (self._settings + arguments.fast) * arguments.repetitions
        self._groups = plan.groups(recordings, count)
        self._file: Path | None = arguments.rows
        self.rows: list[Row] = read_rows(self._file) if self._file and self._file.exists() else []
        ids = {each.name: speaker.ids(each) for each in recordings}
        self._casts = [Cast(group, ids, recurring, tools) for group in self._groups]

    async def play(self, servers: dict[Run, Server], tools: ToolServer) -> None:
        """Every block that has no rows yet."""
        player = Player(tools)
        settings = await self._settings_of(player, servers)
        planned = list(plan.acts(settings, self._arguments.runs, self._arguments.repetitions))
        done = {row.place for row in self.rows if isinstance(row, Block)}
        for number, act in enumerate(planned):
            if act.place in done:
                continue
            server = servers[server_of(act.place.run)]
            began = time.monotonic()
            rows = await player.play(act.place, server, self._casts[act.group], dict(act.place.setting.scales))
            self.rows += rows
            if self._file:
                append_rows(self._file, rows)
            _progress(number, len(planned), act.place, rows, time.monotonic() - began)

    async def _settings_of(self, player: Player, servers: dict[Run, Server]) -> list[Setting]:
        """The settings with their time scales: as in the rows there are, else from a first block on stock. Quick blocks
        have as many sessions as fit in the time."""
        wanted, kept = self._wanted(), list(dict.fromkeys(row.place.setting for row in self.rows))
        if len(kept) >= len(wanted):
            tasks = Counter(row.place for row in self.rows if isinstance(row, Task))
            if self._arguments.quick:
                self._shorten(max(tasks.values(), default=0))
            return kept
        first = plan.first_scales(self._recordings)
        trial = Place(setting=_setting(wanted[0], first, self._recordings), run="A", repetition=-1)
        began = time.monotonic()
        rows = await player.play(trial, servers["A"], self._casts[0], first)
        seconds = (time.monotonic() - began) / len(self._casts[0].recordings)
        print(f"a first block: {seconds:.1f} s for each session", file=sys.stderr, flush=True)
        if self._arguments.quick:
            planned = list(plan.acts(wanted, self._arguments.runs, self._arguments.repetitions))
            self._shorten(plan.most_sessions(planned, seconds, QUICK_S))
        return [self._scaled(number, setting, rows) for number, setting in enumerate(wanted)]

    def _shorten(self, most: int) -> None:
        """Play so many sessions a block, and say so where it is fewer than wanted."""
        if any(len(cast.recordings) > most for cast in self._casts):
            print(f"this machine is slow: {most} sessions a block are played", file=sys.stderr, flush=True)
            self._casts = [msgspec.structs.replace(cast, recordings=cast.recordings[:most]) for cast in self._casts]

    def _scaled(self, number: int, setting: Setting, rows: Sequence[Row]) -> Setting:
        """A setting with its time scales, by what it plays and how fast the model was in these rows."""
        count = self._arguments.repetitions
        casts = self._casts[number * count : (number + 1) * count]
        played = [each for cast in casts for each in cast.recordings]
        if setting.name == plan.FAST:
            return _setting(setting, plan.fast_scales(played), played)
        tasks = [row for row in rows if isinstance(row, Task)]
        return _setting(setting, plan.scales(tasks, self._recordings, played, setting.tool_share or 0.5), played)

    def _wanted(self) -> list[Setting]:
        arguments = self._arguments
        found = [
            Setting(
                name="main" if not number else f"agents {agents}, share {share}",
                agents=agents,
                scale=1.0,
                model=arguments.model.name,
                tool_share=share,
                rate=arguments.rate,
            )
            for number, (agents, share) in enumerate((a, s) for a in arguments.agents for s in arguments.tool_share)
        ]
        if arguments.fast:
            found.append(msgspec.structs.replace(found[0], name=plan.FAST, tool_share=None))
        return found


def _setting(setting: Setting, scales: dict[str, float], recordings: Sequence[Recording]) -> Setting:
    by_domain = tuple((domain, round(scale, 6)) for domain, scale in sorted(scales.items()))
    return msgspec.structs.replace(setting, scale=plan.overall(scales, recordings), scales=by_domain)


def main() -> int:
    arguments = _parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        _bench(arguments)
    except (Diverged, ConfigError) as error:
        print(f"no numbers: {error}", file=sys.stderr)
        return 1
    return 0


def _bench(arguments: argparse.Namespace) -> None:
    sessions = recording.read(arguments.sessions) if arguments.sessions else made_up.sessions(MADE_UP)
    known = [recording.record(session) for session in sessions]
    played = _played(arguments, known)
    lessons = train.lessons(sessions, played)
    patterns = arguments.patterns or train.mined(train.some(lessons))
    own = {each.source for each in played}
    agents = [each for each in known if each.source in own]
    production = Production(arguments, played, agents, frozenset() if arguments.patterns else lessons.recurring)
    _perform(production, arguments, patterns)
    require_as_stock(production.rows)
    _report(production.rows, arguments)
    if arguments.simulate:
        _simulate(production.rows, sessions if arguments.sessions else (), arguments)


def _perform(production: Production, arguments: argparse.Namespace, patterns: Path | None) -> None:
    async def loop(servers: dict[Run, Server], tools: ToolServer) -> None:
        async with tools.serving():
            await production.play(servers, tools)

    tools = ToolServer()
    with tempfile.TemporaryDirectory(prefix="replay-") as name:
        folder = Path(name)
        config = write_tools(folder, production.schemas, tools)
        with running(folder, arguments.runs, arguments.model, arguments.pool, config, patterns) as servers:
            asyncio.run(loop(servers, tools))


def _with_room(
    recordings: Sequence[Recording], speaker: Speaker, tools: dict[str, list[dict[str, Any]]], pool: int
) -> list[Recording]:
    """Those that a server can be asked in full."""
    most, kept = min(speaker.context, pool) - MAX_TOKENS, []
    for each in recordings:
        length = speaker.length(each, tools[each.source])
        if length <= most:
            kept.append(each)
        else:
            print(f"left out: {each.name}, {length} tokens of at most {most}", file=sys.stderr, flush=True)
    return kept


def _played(arguments: argparse.Namespace, known: Sequence[Recording]) -> list[Recording]:
    count = (len(arguments.agents) * len(arguments.tool_share) + arguments.fast) * arguments.repetitions
    wanted = Wanted(count * arguments.per_block, arguments.prompt_chars, arguments.said_chars)
    return recording.choose(known, wanted)


def _report(rows: Sequence[Row], arguments: argparse.Namespace) -> None:
    found = summary(rows, sim_error_pct(validate(rows, pool=arguments.pool, limits=LIMITS)))
    print(as_text(numbers(Rows(rows))))
    tasks = [row for row in rows if isinstance(row, Task)]
    checks = {
        "answers as recorded": sum(len(task.turns) for task in tasks),
        "results as recorded": sum(len(task.calls) for task in tasks),
        "calls executed, writes once": sum(len(task.calls) for task in tasks),
    }
    print(json.dumps(found, indent=1))
    # A place on this machine says nothing elsewhere.
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    command = shlex.join(["python", "-m", "bench.replay", *words])
    origin = "given" if arguments.sessions else "made up"
    if arguments.json:
        report = Report(
            commit=record.commit(),
            hardware=record.hardware(),
            versions=record.versions(),
            command=command,
            sessions=origin,
            summary=found,
            checks=checks,
            rows=tuple(rows),
        )
        arguments.json.write_bytes(msgspec.json.encode(report))
    if not arguments.dry:
        result = {"command": command, "sessions": origin, "summary": found, "checks": checks}
        print(f"added to {record.append('replay', result)}")


def _simulate(rows: Sequence[Row], sessions: Sequence[Session], arguments: argparse.Namespace) -> None:
    """A page of what a model makes of these rows, and of fleets."""
    shapes = recorded(recording.record(session) for session in sessions)
    found = simulate(rows, arguments.pool, sizes=SIZES, sessions=shapes)
    arguments.simulate.write_text(page("Replay, simulated", "", found.sections), encoding="utf-8")
    print(f"wrote {arguments.simulate}")


def _progress(number: int, count: int, place: Place, rows: Sequence[Row], seconds: float) -> None:
    tasks = [row for row in rows if isinstance(row, Task)]
    mean = sum(task.task_s for task in tasks) / max(1, len(tasks))
    tools = sum(task.tools_s for task in tasks) / max(1, len(tasks))
    name = f"[{number + 1}/{count}] {place.setting.name}, {place.run}"
    told = f"{name}: {len(tasks)} tasks, mean {mean:.2f} s, of it tools {tools:.2f} s; {seconds:.0f} s"
    print(told, file=sys.stderr, flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.replay", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="few short sessions: under 10 minutes on two cores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every row and the summary")
    parser.add_argument("--rows", type=Path, metavar="FILE", help="keep rows here; what is there is not played again")
    parser.add_argument("--sessions", nargs="+", type=Path, metavar="PATH", help="recorded sessions; else made-up ones")
    parser.add_argument("--patterns", type=Path, metavar="FILE", help="mined patterns; else those of other tasks")
    parser.add_argument("--model", type=Path, default=MODEL, metavar="FOLDER", help="the model to serve")
    parser.add_argument("--runs", nargs="+", choices=RUNS, metavar="RUN", help=f"of {' '.join(RUNS)}; A always")
    parser.add_argument("--agents", nargs="+", type=int, default=[2], metavar="N", help="sessions at once")
    parser.add_argument("--rate", type=float, metavar="R", help="sessions that arrive a second, instead of --agents")
    parser.add_argument("--tool-share", nargs="+", type=float, default=[0.5], metavar="SHARE", help="of a task's time")
    parser.add_argument("--repetitions", type=int, metavar="N", help="blocks of each run, each with other sessions")
    parser.add_argument("--per-block", type=int, metavar="N", help="sessions of a block")
    parser.add_argument("--prompt-chars", type=int, default=24_000, metavar="N", help="the longest sessions to play")
    parser.add_argument("--said-chars", type=int, metavar="N", help="the most the model says in one")
    parser.add_argument("--pool", type=int, default=65_536, metavar="TOKENS", help="the KV cache")
    parser.add_argument("--simulate", type=Path, metavar="FILE", help="then simulate it, and fleets; write a page")
    parser.add_argument("--dry", action="store_true", help="nothing is added to the results")
    parser.add_argument("--no-fast", dest="fast", action="store_false", help="without the control of 5 ms tools")
    arguments = parser.parse_args()
    runs: Sequence[Run] = arguments.runs or (QUICK if arguments.quick else RUNS)
    arguments.runs = [run for run in RUNS if run in {"A", *runs}]
    quick = {"repetitions": 2, "per_block": 6, "said_chars": 2_500}
    sizes = quick if arguments.quick else {"repetitions": 4, "per_block": 12, "said_chars": 4_000}
    for name, value in sizes.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    return arguments


if __name__ == "__main__":
    sys.exit(main())
