"""The numbers that a sceptic would ask for, of every run in every setting, and the few that stand for all."""

from collections import Counter
from collections.abc import Sequence

import msgspec

from bench.replay.records import Outcome, Row, Run, Setting, Summary, Task
from bench.replay.report.compare import Kind, Rows, anything
from bench.replay.report.stats import STATISTICS, Interval, Statistic, change, interval, mean, quantile, ratio

ORDER: tuple[Run, ...] = ("A", "A2", "B", "C", "D", "E", "F", "wrong", "same")
PARTS: dict[Run, str] = {"B": "tools", "C": "drafts", "D": "retention", "E": "order"}
FAST = "fast"
HITS: tuple[Outcome, ...] = ("reused", "joined", "promoted")


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """Mean seconds of a task by what they are spent on; together they are the task."""

    first: float
    generation: float
    tools: float
    other: float


class Numbers(msgspec.Struct, frozen=True, kw_only=True):
    """One run in one setting. Changes are per cent against stock; `calls_ratio` is what the tools were executed for a
    session, against stock; `wasted` are early runs that nobody asked for, `useful` those that were foreseen and asked
    for, `written` those that were and began only when their call was written."""

    setting: Setting
    run: Run
    tasks: int
    sessions: int
    repetitions: int
    task_s: dict[str, Interval]
    change_pct: dict[str, Interval]
    spent: Spent
    tool_latency_s: float
    outcomes: dict[Outcome, int]
    wasted: int
    useful: int
    written: int
    calls_per_session: float
    calls_ratio: float | None
    prefix_hit_pct: float
    accept_length: float
    engine_pct: float
    tools_at_work: float
    peak_gb: float

    @property
    def wasted_per_useful(self) -> float | None:
        """Early runs for nothing, for each foreseen one that was not."""
        return self.wasted / self.useful if self.useful else None

    @property
    def tool_share(self) -> float:
        """The part of the task that the agent waits for tools."""
        spent = self.spent
        return spent.tools / max(spent.first + spent.generation + spent.tools + spent.other, 1e-9)

    @property
    def hit_rate(self) -> float:
        """The part of the calls that ran before they were written."""
        return self.useful / max(sum(self.outcomes.values()), 1)


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """The change of the mean task time in one part of the sessions."""

    domain: str
    recurring: bool | None
    sessions: int
    change_pct: Interval
    latency_ratio: Interval | None


def numbers(rows: Rows) -> list[Numbers]:
    """All runs of all settings, stock first."""
    return [_numbers(rows, setting, run) for setting in rows.settings for run in ORDER if run in rows.runs(setting)]


def parts(rows: Rows, setting: Setting, run: Run = "F") -> list[Part]:
    """The sessions by domain, and by whether the patterns had seen their task; all of them last."""
    tasks = rows.tasks(setting, run)
    domains = sorted({task.domain for task in tasks})
    kinds: list[tuple[str, bool | None]] = [(each, None) for each in domains]
    kinds += [(each, known) for each in domains for known in (True, False)]
    kinds += [("all", True), ("all", False), ("all", None)]
    found = [_part(rows, setting, run, domain, known) for domain, known in kinds]
    return [part for part in found if part is not None]


def summary(found: Sequence[Row], sim_error_pct: float | None = None) -> Summary:
    """The numbers by which a replay is judged. Reductions are per cent of the time that is saved, overheads per cent
    that is added; None where the runs for it are missing. A name may be followed by the part of the sessions it is
    about: a domain, `recurring` tasks or `unseen` ones."""
    rows = Rows(found)
    fast, again = rows.named(FAST), _reduction(rows, "same", "wrong")
    said: Summary = {
        "mean_reduction_pct": _reduction(rows, "A", "F"),
        "p99_reduction_pct": _reduction(rows, "A", "F", statistic=quantile(0.99)),
        "vs_ngram_reduction_pct": _reduction(rows, "A2", "F"),
        "tool_latency_ratio": _latency(rows),
        "all_wrong_overhead_pct": _minus(_reduction(rows, "A" if again is None else "same", "wrong")),
        "a_vs_a_pct": _minus(_reduction(rows, "A", "same")),
        "tool_share_pct": _share(rows),
        "sim_error_pct": None if sim_error_pct is None else round(sim_error_pct, 2),
        "fast_tools_reduction_pct": _reduction(rows, "A", "F", setting=fast) if fast else None,
    }
    for run, name in PARTS.items():
        said[f"{name}_reduction_pct"] = _reduction(rows, "A", run)
    for part, kind in _kinds(rows).items():
        said[f"mean_reduction_pct/{part}"] = _reduction(rows, "A", "F", kind=kind)
        said[f"tool_latency_ratio/{part}"] = _latency(rows, kind)
        said[f"tool_share_pct/{part}"] = _share(rows, kind)
    return said


def latency_ratio(rows: Rows, setting: Setting, run: Run, kind: Kind = anything) -> Interval | None:
    """How many times as long clients wait for a call on stock, over the sessions that both played."""
    pair = rows.pair(setting, "A", run, lambda task: sum(call.latency_s for call in task.calls), kind)
    return ratio(*pair, mean) if pair and pair[1].sum() > 0 else None


def prefix_hit_pct(tasks: Sequence[Task]) -> float:
    """Per cent of the prompts' tokens that were cached, in turns after a session's first."""
    turns = [turn for task in tasks for turn in task.turns[1:]]
    return 100 * sum(turn.cached for turn in turns) / max(sum(turn.prompt for turn in turns), 1)


def spent(tasks: Sequence[Task]) -> Spent:
    """Where a task's time goes, on average."""
    count = max(len(tasks), 1)
    turns = [turn for task in tasks for turn in task.turns]
    first, generation = sum(turn.ttft_s for turn in turns), sum(turn.generation_s for turn in turns)
    tools = sum(turn.tools_s for turn in turns)
    rest = sum(task.task_s for task in tasks) - first - generation - tools
    return Spent(first=first / count, generation=generation / count, tools=tools / count, other=max(rest, 0.0) / count)


def _numbers(rows: Rows, setting: Setting, run: Run) -> Numbers:
    tasks, blocks = rows.tasks(setting, run), rows.blocks(setting, run)
    times = rows.matrix(setting, run)
    pair = rows.pair(setting, "A", run) if run != "A" else None
    calls = [call for task in tasks for call in task.calls]
    turns = [turn for task in tasks for turn in task.turns]
    steps = sum(turn.steps for turn in turns)
    ends = Counter((each.end == "claimed", each.written) for block in blocks for each in block.early)
    per_session = sum(task.executions + task.early for task in tasks) / max(len(tasks), 1)
    stock = rows.tasks(setting, "A")
    stock_calls = sum(task.executions + task.early for task in stock) / max(len(stock), 1)
    wall = sum(block.wall_s for block in blocks)
    return Numbers(
        setting=setting,
        run=run,
        tasks=len(tasks),
        sessions=len({task.session for task in tasks}),
        repetitions=len(tasks) // max(len({task.session for task in tasks}), 1),
        task_s={name: interval(times, each) for name, each in STATISTICS.items()} if times is not None else {},
        change_pct={name: change(*pair, each) for name, each in STATISTICS.items()} if pair else {},
        spent=spent(tasks),
        tool_latency_s=sum(call.latency_s for call in calls) / max(len(calls), 1),
        outcomes=dict(Counter(call.outcome for call in calls)),
        wasted=ends[False, False] + ends[False, True],
        useful=ends[True, False],
        written=ends[True, True],
        calls_per_session=per_session,
        calls_ratio=per_session / stock_calls if stock_calls else None,
        prefix_hit_pct=prefix_hit_pct(tasks),
        accept_length=sum(turn.output - 1 for turn in turns) / steps if steps else 1.0,
        engine_pct=100 * sum(block.engine_busy_s for block in blocks) / wall if wall else 0.0,
        tools_at_work=sum(block.tools_busy_s for block in blocks) / wall if wall else 0.0,
        peak_gb=max((block.peak_bytes for block in blocks), default=0) / 1e9,
    )


def _part(rows: Rows, setting: Setting, run: Run, domain: str, known: bool | None) -> Part | None:
    def belongs(task: Task) -> bool:
        return domain in ("all", task.domain) and known in (None, task.recurring)

    pair = rows.pair(setting, "A", run, kind=belongs)
    if pair is None:
        return None
    return Part(
        domain=domain,
        recurring=known,
        sessions=len(pair[0]),
        change_pct=change(*pair, mean),
        latency_ratio=latency_ratio(rows, setting, run, belongs),
    )


def _kinds(rows: Rows) -> dict[str, Kind]:
    """The parts of the sessions that a summary looks at."""
    setting = rows.with_runs("A", "F")
    domains = sorted({task.domain for task in rows.tasks(setting, "F")}) if setting else []

    def of(domain: str) -> Kind:
        return lambda task: task.domain == domain

    recurring: dict[str, Kind] = {"recurring": lambda task: task.recurring, "unseen": lambda task: not task.recurring}
    return {domain: of(domain) for domain in domains} | (recurring if setting else {})


def _reduction(
    rows: Rows,
    base: Run,
    run: Run,
    *,
    statistic: Statistic = mean,
    kind: Kind = anything,
    setting: Setting | None = None,
) -> float | None:
    setting = setting or rows.with_runs(base, run)
    pair = rows.pair(setting, base, run, kind=kind) if setting else None
    return None if pair is None else round(-change(*pair, statistic).value, 2) + 0.0


def _latency(rows: Rows, kind: Kind = anything) -> float | None:
    setting = rows.with_runs("A", "F")
    found = latency_ratio(rows, setting, "F", kind) if setting else None
    return round(found.value, 2) if found else None


def _share(rows: Rows, kind: Kind = anything) -> float | None:
    setting = rows.with_runs("A")
    tasks = [task for task in rows.tasks(setting, "A") if kind(task)] if setting else []
    whole = sum(task.task_s for task in tasks)
    return round(100 * sum(task.tools_s for task in tasks) / whole, 2) if whole else None


def _minus(value: float | None) -> float | None:
    return None if value is None else -value + 0.0
