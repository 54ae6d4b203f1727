"""The servers of the runs: which parts of ours are on, and which cores they have."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import psutil

from bench.drafts import NGRAM_DRAFTS, OUR_DRAFTS, ngram
from bench.replay.effects import Declared, declared
from bench.replay.records import Run
from bench.replay.toolserver import CONCURRENCY, SESSION_HEADER, ToolServer
from bench.turns.server import OURS, Server, servers
from sglang_paste.config import Limits

Part = Literal["tools", "drafts", "turns", "retention", "order", "warm"]
PARTS: dict[Run, tuple[Part, ...]] = {
    "B": ("tools",),
    "C": ("drafts",),
    "D": ("turns", "retention"),
    "E": ("order",),
    "F": ("tools", "drafts", "turns", "retention", "order", "warm"),
}
# A control is a run of another's server.
SERVER: dict[Run, Run] = {"same": "A", "wrong": "B"}
_OFF: dict[Part, tuple[str, ...]] = {
    "tools": ("--tool-speculation-budget", "0"),
    "turns": ("--tool-session-memory", "0"),
    "retention": ("--tool-retention-budget", "0"),
    "order": ("--tool-return-bound", "0"),
    "warm": ("--tool-warm-slice", "0"),
}
_ON: dict[Part, tuple[str, ...]] = {"drafts": ngram(OUR_DRAFTS)}
# Recorded tools wait instead of working, so that more of them may run early than there are cores.
LIMITS = Limits(speculative=8, per_session=3, per_tool=8)
_SCHEDULER = "sglang::scheduler"


def server_of(run: Run) -> Run:
    """The run whose server a run is played on."""
    return SERVER.get(run, run)


@contextmanager
def running(
    folder: Path, runs: Iterable[Run], model: Path, pool: int, tools: Path, patterns: Path | None
) -> Iterator[dict[Run, Server]]:
    """The servers that these runs need, by run."""
    needed = list(dict.fromkeys(map(server_of, runs)))
    extra: dict[str, Sequence[str]] = {run: _arguments(run, tools, patterns) for run in needed}
    with servers(folder, pool, extra, model) as started:
        for server in started:
            pin(server)
        yield dict(zip(needed, started, strict=True))


def pin(server: Server) -> None:
    """The engine gets the first core, all else the last: this bench, tools, tokenizer, gateway and predictors."""
    cores = sorted(os.sched_getaffinity(0))
    root = psutil.Process(server.pid)
    for process in (root, *root.children(recursive=True)):
        core = cores[0] if process.name().startswith(_SCHEDULER[:15]) else cores[-1]
        for thread in process.threads():
            os.sched_setaffinity(thread.id, {core})


def write_tools(folder: Path, schemas: dict[str, dict[str, Any]], server: ToolServer) -> Path:
    """A tools.toml that offers the recorded tools."""
    names = ("speculative", "per_session", "per_tool")
    lines = ["[limits]", *(f"{name} = {getattr(LIMITS, name)}" for name in names), ""]
    for tool, schema in schemas.items():
        known = declared(tool)
        lines += [
            f"[tools.{tool}]",
            'kind = "http"',
            f'description = "The tool {tool}."',
            f'url = "{server.url(tool)}"',
            f'session_header = "{SESSION_HEADER}"',
            f'effect = "{known.effect}"',
            _seen(known),
            f"timeout_s = 600.0\nconcurrency = {CONCURRENCY}",
            f"speculate = {json.dumps(known.effect != 'write' or bool(known.reads_when))}",
            f"parameters = {_toml(schema)}",
            f"inert = {_toml([name for name in known.inert if name in schema['properties']])}",
        ]
        reads_when = {name: list(rule) for name, rule in known.reads_when if name in schema["properties"]}
        if reads_when:
            lines.append(f"reads_when = {_toml(reads_when)}")
        if known.resource:
            touched = json.dumps([known.resource])
            lines += [f"{what} = {touched}" for what in ("reads", "writes") if what in _touches(known)]
        lines.append("")
    path = folder / "tools.toml"
    path.write_text("\n".join(lines))
    return path


def _seen(known: Declared) -> str:
    return 'observes = "external"\ndisclose = true' if known.kind in ("web", "api") else 'observes = "local"'


def _touches(known: Declared) -> tuple[str, ...]:
    if known.effect != "write":
        return ("reads",)
    return ("reads", "writes") if known.reads_when else ("writes",)


def _arguments(run: Run, tools: Path, patterns: Path | None) -> tuple[str, ...]:
    if run not in PARTS:
        return ngram(NGRAM_DRAFTS) if run == "A2" else ()
    on = PARTS[run]
    switches = [flag for part, flags in _OFF.items() if part not in on for flag in flags]
    switches += [flag for part, flags in _ON.items() if part in on for flag in flags]
    mined = ("--tool-patterns", str(patterns)) if patterns else ()
    return (*OURS, "--tool-config", str(tools), "--tool-cpus", str(max(os.sched_getaffinity(0))), *mined, *switches)


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(name)} = {_toml(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
