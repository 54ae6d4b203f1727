"""The rows of a replay: one for each session played (`Task`) and one for each block of sessions on a server (`Block`).

Times are seconds of one monotonic clock; `*_at` count from the block's start. A file of rows holds one JSON object a
line, tagged by `kind`; a block's tasks stand before it, so that a block that is there is whole.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args

import msgspec

Run = Literal["A", "A2", "B", "C", "D", "E", "F", "wrong", "same"]
RUNS: tuple[Run, ...] = get_args(Run)
STOCK: tuple[Run, ...] = ("A", "A2", "same")
NAMES: dict[Run, str] = {
    "A": "stock",
    "A2": "stock with NGRAM",
    "B": "tools run early",
    "C": "drafts",
    "D": "sessions and retention",
    "E": "co-scheduling",
    "F": "everything",
    "wrong": "all predictions wrong",
    "same": "stock again",
}

Effect = Literal["pure", "read", "write"]
Outcome = Literal["reused", "joined", "promoted", "run", "replayed"]
End = Literal["claimed", "squashed", "expired", "failed", "cancelled", "queued", "running", "ready"]


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """What all runs of a comparison have in common. Rows are compared within one setting.

    `name` is main, fast (tools of 5 ms), or what was varied; `scale` is what recorded tool seconds are multiplied by,
    over all, and `scales` by domain; `tool_share` is what these were chosen for (None where they were given), `rate`
    the sessions that arrive a second (None: a closed loop of `agents`).
    """

    name: str
    agents: int
    scale: float
    model: str
    tool_share: float | None = None
    rate: float | None = None
    scales: tuple[tuple[str, float], ...] = ()


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """What a block is known by: repeated runs skip the places that have rows."""

    setting: Setting
    run: Run
    repetition: int


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A call as the client made it. `latency_s` is what the client waited, `duration_s` what the tool takes by itself;
    on stock the outcome is always "run"."""

    tool: str
    effect: Effect
    outcome: Outcome
    latency_s: float
    duration_s: float


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One turn. `ttft_s` until the first token, `generation_s` from it to the last, `tools_s` from then until all
    results are there. Tokens: of the prompt, of these cached, and of the output. `steps` is how often the model ran to
    decode it, the prefill not among them."""

    sent_at: float
    ttft_s: float
    generation_s: float
    tools_s: float
    prompt: int
    cached: int
    output: int
    steps: int
    calls: tuple[Call, ...] = ()

    @property
    def accept_length(self) -> float:
        """Tokens a decode step; 1 without drafts."""
        return (self.output - 1) / self.steps if self.steps else 1.0


class Task(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="task"):
    """A session, played to its end. `recurring`: the patterns saw its task, in another session. `executions` is how
    often a tool was executed for it with a call that it makes, `early` how often with one that nobody asked for."""

    place: Place
    agent: int
    session: str
    source: str
    domain: str
    recurring: bool
    began_at: float
    task_s: float
    executions: int
    early: int
    turns: tuple[Turn, ...]

    @property
    def calls(self) -> tuple[Call, ...]:
        """All calls, in order."""
        return tuple(call for turn in self.turns for call in turn.calls)

    @property
    def tools_s(self) -> float:
        """Seconds in which the client did nothing but wait for tools."""
        return sum(turn.tools_s for turn in self.turns)


class Early(msgspec.Struct, frozen=True, kw_only=True):
    """A tool that ran before it was asked for: with which probability, what came of it, and how long it ran. `written`:
    the model had written the call when it began, so that nothing was foreseen."""

    tool: str
    probability: float | None
    end: End
    run_s: float
    written: bool = False


class Block(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag="block"):
    """One run of all sessions on one server. `engine_busy_s` is how long the model ran, of `wall_s`; `tools_busy_s` is
    the seconds of all tools at work, added up, of which `tools_wasted_s` for nobody; `forwards` counts the model's runs
    by kind; `peak_bytes` is the most memory of the server with all its processes. `counters` are the side
    process's, by Prometheus's name and labels; `early` all that ran early."""

    place: Place
    wall_s: float
    engine_busy_s: float
    tools_busy_s: float
    tools_wasted_s: float
    peak_bytes: int
    forwards: dict[str, int]
    counters: dict[str, float] = {}
    early: tuple[Early, ...] = ()


Row = Task | Block
Summary = dict[str, float | None]
_DECODER = msgspec.json.Decoder(Row)


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What `--json` writes. `sessions` says where they come from, `checks` what was compared and found right."""

    commit: str
    hardware: dict[str, object]
    versions: dict[str, str]
    command: str
    sessions: str
    summary: Summary
    checks: dict[str, int]
    rows: tuple[Row, ...]


def read_rows(path: Path) -> list[Row]:
    """The rows of whole blocks, from a file of lines or a report. A line that was cut off is left out."""
    data = path.read_bytes()
    if data.lstrip().startswith(b'{"commit"'):
        return list(msgspec.json.decode(data, type=Report).rows)
    return whole(_decode(data.splitlines()))


def append_rows(path: Path, rows: Iterable[Row]) -> None:
    """Add the rows of one block, the block last."""
    with path.open("ab") as file:
        # After a line that was cut off, a new one.
        file.write(b"\n" + b"".join(msgspec.json.encode(row) + b"\n" for row in rows))


def whole(rows: Iterable[Row]) -> list[Row]:
    """Those whose block is there, and none twice: a block that was cut off is played again."""
    kept: list[Row] = []
    waiting: dict[Place, dict[str, Task]] = {}
    seen: set[Place] = set()
    for row in rows:
        if row.place in seen:
            continue
        if isinstance(row, Task):
            waiting.setdefault(row.place, {})[row.session] = row
        else:
            seen.add(row.place)
            kept += [*waiting.pop(row.place, {}).values(), row]
    return kept


def _decode(lines: Iterable[bytes]) -> Iterable[Row]:
    for line in lines:
        if line.strip():
            try:
                yield _DECODER.decode(line)
            except msgspec.MsgspecError:
                continue
