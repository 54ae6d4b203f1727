"""The plots of a replay. Each is drawn from numbers alone, and says in its caption what it is and what it isn't."""

from collections.abc import Mapping, Sequence

import msgspec

from bench.replay.records import NAMES, STOCK, Run, Setting
from bench.replay.report import bounds
from bench.replay.report.draw import Axis, Bar, Frame, stacks
from bench.replay.report.stats import Interval, shares
from bench.replay.report.summary import HITS, Numbers, Part
from sglang_paste.observe.svg import element, line, text

STAGES = {"first": "until the first token", "generation": "generation", "tools": "waiting for tools", "other": "else"}
ENDS = {"reused": "reused", "joined": "joined", "promoted": "promoted", "missed": "not foreseen"}


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """A plot with its title, its legend as (class, words), and its caption."""

    title: str
    svg: str
    caption: str
    legend: tuple[tuple[str, str], ...] = ()


def label(run: Run) -> str:
    """A run's name as the reader sees it."""
    return f"{run} {NAMES[run]}"


def setting_title(setting: Setting) -> str:
    """What tells a setting from the others."""
    share = f"tools {100 * setting.tool_share:.0f} % of the task" if setting.tool_share else ""
    who = f"{setting.rate:g} sessions a second" if setting.rate else f"{setting.agents} agents"
    return f"{setting.name}, {share or f'tool times × {setting.scale:.3g}'}, {who}"


def task_times(times: Mapping[Run, Sequence[float]], sessions: int) -> Figure:
    """The distribution of task times of each run."""
    longest = max(max(values) for values in times.values())
    frame = Frame(
        Axis(low=0.0, high=longest * 1.02, label="task time", unit=" s"),
        Axis(low=0.0, high=100.0, label="tasks that are done by then", unit=" %"),
    )
    order = sorted(times, key=lambda run: run == "F")
    lines = [frame.steps([(x, 100 * y) for x, y in shares(times[run])], f"run-{run}") for run in order]
    count = max(len(values) for values in times.values())
    return Figure(
        title="Task times",
        svg=frame.svg(lines, "distribution of task times by run"),
        caption=f"The share of tasks that are done within a time; further left is better. {sessions} sessions, "
        f"up to {count} tasks a run. The right end of a curve stands for few tasks.",
        legend=tuple((f"line run-{run}", label(run)) for run in times),
    )


def where_time_goes(found: Sequence[Numbers]) -> Figure:
    """Where a task's time goes in each run."""
    stock = next((each for each in found if each.run == "A"), None)
    bars = []
    for each in found:
        spent = tuple((stage, float(getattr(each.spent, stage))) for stage in STAGES)
        whole = sum(length for _, length in spent)
        base = _whole(stock) if stock and each is not stock else 0.0
        said = f"{whole:.1f} s" + (f", {_signed(100 * (whole / base - 1))} %" if base else "")
        bars.append(Bar(name=label(each.run), segments=spent, said=said))
    axis = Axis(low=0.0, high=1.02 * max(_whole(each) for each in found), label="mean time of a task", unit=" s")
    return Figure(
        title="Where the time goes",
        svg=stacks(bars, axis, "mean seconds of a task by what they are spent on", lambda length: f"{length:.1f}"),
        caption="Mean seconds of a task. Until the first token: tokenising, queue and prefill. Waiting for tools is "
        "what the agent really waits, not what tools work. Else: the client between turns.",
        legend=tuple((f"bar {stage}", words) for stage, words in STAGES.items()),
    )


def hits(found: Sequence[Numbers]) -> Figure | None:
    """What became of the calls, in the runs in which tools run early."""
    early = [each for each in found if each.run not in STOCK and (each.useful or each.written or each.wasted)]
    if not early:
        return None
    bars = []
    for each in early:
        total = max(sum(each.outcomes.values()), 1)
        counts = {kind: each.outcomes.get(kind, 0) for kind in HITS}
        segments = [(str(kind), 100 * count / total) for kind, count in counts.items()]
        segments.append(("missed", 100 - sum(share for _, share in segments)))
        waste = each.wasted_per_useful
        said = f"{each.wasted} for nothing" if waste is None else f"{waste:.2g} wasted"
        bars.append(Bar(name=label(each.run), segments=tuple(segments), said=said))
    axis = Axis(low=0.0, high=100.0, label="calls", unit=" %")
    calls = sum(early[-1].outcomes.values())
    return Figure(
        title="Hits and waste",
        svg=stacks(bars, axis, "what became of the calls", lambda length: f"{length:.0f}"),
        caption=f"Of up to {calls:,} calls a run: the result was there (reused), its run was under way (joined), it "
        "was queued (promoted: the tool then ran as it would have), or it did not run early. Of those of "
        f"{label(early[-1].run)} that did, {early[-1].useful:,} had begun before their call was written, and "
        f"{early[-1].written:,} when it was. Right: early runs for nothing, for each foreseen one that was used.",
        legend=tuple((f"bar {kind}", words) for kind, words in ENDS.items()),
    )


def by_part(found: Sequence[Part]) -> Figure:
    """The change of the mean task time by domain."""
    row, left = 26.0, 214.0
    reach = [end for part in found for end in part.change_pct]
    axis = Axis(
        low=min(-10.0, *reach) * 1.05,
        high=max(10.0, *reach) * 1.05,
        label="change of the mean task time, F against A",
        unit=" %",
    )
    height = 14.0 + row * len(found) + 46.0
    frame = Frame(axis, Axis(low=0, high=1, label="", ticks=(2.0,)), height=height, left=left, right=86.0)
    parts = [line(frame.x(each), 14.0, frame.x(each), frame.bottom, class_="grid") for each in axis.marks(6)]
    parts.append(line(frame.x(0.0), 14.0, frame.x(0.0), frame.bottom, class_="zero"))
    for number, part in enumerate(found):
        y, (value, low, high) = 14.0 + row * (number + 0.5), part.change_pct
        kind = {None: "run-F", True: "known", False: "unseen"}[part.recurring]
        parts += [
            text(left - 10, y + 4, _part_name(part), "end", class_="row"),
            element("g", line(frame.x(low), y, frame.x(high), y), class_=f"whisker {kind}"),
            element("circle", cx=frame.x(value), cy=y, r=4.5, class_=f"dot {kind}"),
            text(frame.right + 44, y + 4, f"{_signed(value)} %", "end", class_="total"),
            text(frame.right + 82, y + 4, f"n {part.sessions}", "end", class_="soft"),
        ]
    for each in axis.marks(6):
        parts.append(text(frame.x(each), frame.bottom + 18, f"{_signed(each)} %", "middle", class_="tick"))
    parts.append(text((left + frame.right) / 2, height - 8, axis.label, "middle", class_="name"))
    box = f"0 0 {frame.width:.0f} {height:.0f}"
    return Figure(
        title="By domain, for known and for new tasks",
        svg=element("svg", "".join(parts), class_="plot", viewBox=box, role="img", aria_label=axis.label),
        caption="Further left is better; whiskers are 95 % intervals over sessions, in pairs. Known: the patterns had "
        "seen the task in another session. Where n is small, the interval says more than the point.",
        legend=(("dot run-F", "all"), ("dot known", "known tasks"), ("dot unseen", "new tasks")),
    )


def over_agents(points: Sequence[tuple[int, Interval]]) -> Figure | None:
    """The gain at several numbers of agents."""
    if len(points) < 2:
        return None
    ends = [end for _, interval in points for end in interval]
    counts = sorted({agents for agents, _ in points})
    frame = Frame(
        Axis(low=counts[0] * 0.8, high=counts[-1] * 1.25, label="agents at a time", log=True, ticks=tuple(counts)),
        Axis(low=min(0.0, *ends), high=max(10.0, *ends) * 1.1, label="mean task time saved, F against A", unit=" %"),
    )
    parts = [frame.zero()]
    parts.append(frame.path([(float(agents), each.value) for agents, each in points], "run-F"))
    for agents, each in points:
        parts += [frame.whisker(agents, each.low, each.high, "run-F"), frame.dot(agents, each.value, "run-F")]
    return Figure(
        title="Gain over concurrency",
        svg=frame.svg(parts, "gain over the number of agents"),
        caption="Higher is better; whiskers are 95 % intervals over sessions, in pairs. Each point is one setting, a "
        "closed loop of so many agents on one server.",
    )


def over_share(points: Sequence[tuple[float, Interval]], hit_rate: float) -> Figure:
    """The gain over the tools' share of a task, and what could be had at best."""
    grid = [each / 100 for each in range(101)]
    frame = Frame(
        Axis(low=0.0, high=100.0, label="tools' share of the task on stock", unit=" %"),
        Axis(
            low=min(0.0, *(each.low for _, each in points)),
            high=100.0,
            label="mean task time saved, F against A",
            unit=" %",
        ),
    )
    curves = {
        "bound-1": [(100 * each, bounds.no_tools(each)) for each in grid],
        "bound-2": [(100 * each, bounds.one_ahead(each, hit_rate)) for each in grid],
        "bound-3": [(100 * each, bounds.speculative_actions(each, hit_rate)) for each in grid],
    }
    parts = [frame.zero(), *(frame.path(curve, kind) for kind, curve in curves.items())]
    for share, each in points:
        parts += [frame.whisker(100 * share, each.low, each.high, "run-F"), frame.dot(100 * share, each.value, "run-F")]
    rate = f"{100 * hit_rate:.0f} %"
    return Figure(
        title="Gain over the tools' share",
        svg=frame.svg(parts, "gain over the tools' share of a task, with analytic bounds"),
        caption="Lines are bounds for running tools early and nothing else, two of them at the hit rate that was "
        f"measured ({rate}). F does more (drafts, cache, order), so that a point may lie above them. Whiskers: 95 %.",
        legend=(
            ("dot run-F", "F, measured"),
            ("line bound-1", "tools take no time: 1/(1 − share)"),
            ("line bound-2", f"LLNL/UMD at α = {rate}, g = 0"),
            ("line bound-3", f"Speculative Actions at p = {rate}"),
        ),
    )


def reliability(bins: Sequence[tuple[float, float, int, tuple[float, float]]]) -> Figure | None:
    """How often an early run of a probability was asked for: (probability, share, count, interval) for each bin."""
    if not bins:
        return None
    frame = Frame(
        Axis(low=0.0, high=100.0, label="probability at which it was started", unit=" %"),
        Axis(low=0.0, high=100.0, label="asked for", unit=" %"),
    )
    most = max(count for _, _, count, _ in bins)
    parts = [frame.path([(0, 0), (100, 100)], "ideal")]
    for probability, share, count, (low, high) in bins:
        x, y = 100 * probability, 100 * share
        parts += [
            frame.whisker(x, 100 * low, 100 * high, "run-F"),
            frame.dot(x, y, "run-F", 3 + 6 * (count / most) ** 0.5),
        ]
    return Figure(
        title="Can the probabilities be trusted?",
        svg=frame.svg(parts, "reliability of the probabilities"),
        caption=f"{sum(count for _, _, count, _ in bins):,} early runs of F that began before their call was written, "
        "in tenths of their probability; a larger dot stands for more of them. On the dashed line promises are kept; "
        "above it they are modest. A run that was squashed or not asked for in time counts as that. Whiskers: 95 %.",
        legend=(("dot run-F", "early runs"), ("line ideal", "promises kept")),
    )


def same_but_agents(setting: Setting, other: Setting) -> bool:
    """Whether two settings differ by the number of agents at most."""
    return (setting.scale, setting.model, setting.rate) == (other.scale, other.model, other.rate)


def same_but_scale(setting: Setting, other: Setting) -> bool:
    """Whether two settings differ by how long tools take at most."""
    return (setting.agents, setting.model, setting.rate) == (other.agents, other.model, other.rate)


def _whole(each: Numbers) -> float:
    spent = each.spent
    return spent.first + spent.generation + spent.tools + spent.other


def _part_name(part: Part) -> str:
    name = part.domain if part.domain != "all" else "all sessions"
    return name + {None: "", True: ", known tasks", False: ", new tasks"}[part.recurring]


def _signed(value: float) -> str:
    return (f"{value:+.1f}" if abs(value) < 10 else f"{value:+.0f}").replace("-", "−") if round(value, 1) else "0"
