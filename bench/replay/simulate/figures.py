"""The plots of the simulator: how far it is from what was measured, and what it says of larger machines."""

import math
from collections.abc import Callable, Sequence
from html import escape

from bench.replay.records import NAMES, Run
from bench.replay.report import bounds
from bench.replay.report.draw import Axis, Frame
from bench.replay.report.page import Section, table
from bench.replay.report.plots import Figure, label, setting_title
from bench.replay.simulate.fleet import Point, gains_pct, turn
from bench.replay.simulate.validate import TARGET_PCT, Checked, sim_error_pct

RUNS: tuple[Run, ...] = ("A2", "B", "C", "D", "E", "F")


def validation(checked: Sequence[Checked]) -> Section:
    """The model beside the real run, a point for each run in each setting."""
    ends = [value for each in checked for value in (each.real_s, each.simulated_s)]
    low, high = 0.0, 1.1 * max(ends)
    axis = {"low": low, "high": high, "unit": " s"}
    frame = Frame(
        Axis(label="mean task time, measured", **axis),  # type: ignore[arg-type]
        Axis(label="mean task time, simulated", **axis),  # type: ignore[arg-type]
    )
    edge = TARGET_PCT / 100
    reach = high / (1 + edge)
    parts = [
        frame.band([(low, low, low), (reach, reach * (1 - edge), high), (high, high * (1 - edge), high)], "run-F"),
        frame.path([(low, low), (high, high)], "ideal"),
        *(frame.dot(each.real_s, each.simulated_s, "run-F") for each in checked),
    ]
    figure = Figure(
        title="The model beside the real run",
        svg=frame.svg(parts, "simulated over measured task times"),
        caption="A dot is one run in one setting. Service times come from single turns of stock, but for steps with "
        "drafts (A2's own; C's, or F's without C); which calls were foreseen comes from the run itself; task times "
        "were not fitted. Shaded: within 10 %.",
        legend=(("dot run-F", "runs"), ("line ideal", "equal")),
    )
    rows = [
        [
            escape(setting_title(each.setting)),
            escape(label(each.run)),
            str(each.n),
            f"{each.real_s:.2f}",
            f"{each.simulated_s:.2f}",
            f"{each.error_pct:+.1f}".replace("-", "−"),
        ]
        for each in checked
    ]
    columns = ["setting", "run", "n", "measured, s", "simulated, s", "error, %"]
    worst = sim_error_pct(checked)
    said = f"The largest error is {worst:.1f} %." if worst is not None else ""
    return Section(title="Simulated", said=said, figures=(figure,), markup=table(columns, rows))


def loads(points: Sequence[Point]) -> Section:
    """What is gained over the load of one server, and where it turns."""
    figures = (
        _over_load(
            points,
            "Gain over load",
            "mean task time saved against A",
            RUNS,
            lambda run: gains_pct(points, run),
            " %",
            "Higher is better. " + _turning(points),
        ),
        _over_load(
            points,
            "Throughput over load",
            "tasks that a server ends in an hour",
            ("A", "F"),
            lambda run: {point.sessions: point.per_hour for point in points if point.run == run},
            "",
            "Where stock's curve bends down, its cache no longer holds the sessions, and they are prefilled again.",
        ),
        _over_load(
            points,
            "Prefix hits over load",
            "tokens of prompts that are cached",
            ("A", "D", "F"),
            lambda run: {point.sessions: point.prefix_hit_pct for point in points if point.run == run},
            " %",
            "In turns after a session's first. D and F retain who is expected back.",
        ),
        _over_load(
            points,
            "Engine over load",
            "time in which the model runs",
            ("A", "F"),
            lambda run: {point.sessions: point.engine_pct for point in points if point.run == run},
            " %",
            "The whole simulated time counts, with its quiet end in which the last sessions finish.",
        ),
    )
    stock = [point for point in points if point.run == "A"]
    share = f" At {stock[0].sessions} sessions, tools are {stock[0].tool_share_pct:.0f} % of a task on stock."
    return Section(title="One server, an 8B model on an H100", said=_MODEL + share, figures=figures)


def shares(points: Sequence[tuple[float, Point]], hit_rate: float) -> Section:
    """What early tools and everything gain over the tools' share, beside what analysis says."""
    by_scale: dict[float, dict[Run, Point]] = {}
    for scale, point in points:
        by_scale.setdefault(scale, {})[point.run] = point
    grid = [each / 100 for each in range(101)]
    curves = {
        "bound-1": [(100 * each, bounds.no_tools(each)) for each in grid],
        "bound-2": [(100 * each, bounds.one_ahead(each, hit_rate)) for each in grid],
        "bound-3": [(100 * each, bounds.speculative_actions(each, hit_rate)) for each in grid],
    }
    for run in ("B", "F"):
        curves[f"run-{run}"] = [
            (each["A"].tool_share_pct, 100 * (1 - each[run].mean_s / each["A"].mean_s)) for each in by_scale.values()
        ]
    top = 10 * math.ceil(max(gain for run in ("run-B", "run-F") for _, gain in curves[run]) / 10 + 1)
    frame = Frame(
        Axis(low=0.0, high=100.0, label="tools' share of the task on stock", unit=" %"),
        Axis(low=0.0, high=float(top), label="mean task time saved against A", unit=" %"),
    )
    parts = [frame.path([(x, y) for x, y in curve if y <= top], kind) for kind, curve in curves.items()]
    parts += [frame.dot(x, y, kind) for kind, curve in curves.items() if kind.startswith("run") for x, y in curve]
    rate = f"{100 * hit_rate:.0f} %"
    sessions = points[0][1].sessions
    figure = Figure(
        title="Gain over the tools' share",
        svg=frame.svg(parts, "gain over the tools' share, with analytic bounds"),
        caption=f"{sessions} sessions at a time; their tools take from {min(by_scale):g} times to all of their time. "
        f"Bounds are for early tools alone, where {rate} of the calls are foreseen a turn ahead (here, of those that "
        "may run early) and all tools take the same time. B also runs what is foreseen as it is being written, but no "
        "writes, and a tool that takes a minute can't hide behind a turn of two seconds.",
        legend=(
            ("line run-B", label("B")),
            ("line run-F", label("F")),
            ("line bound-1", "tools take no time"),
            ("line bound-2", f"LLNL/UMD at α = {rate}, g = 0"),
            ("line bound-3", f"Speculative Actions at p = {rate}"),
        ),
    )
    return Section(title="Where early tools pay", figures=(figure,))


def fleet(points: Sequence[Point]) -> Section:
    """Fleets as a table."""
    columns = [
        "sessions at a time",
        "servers",
        "simulated",
        "router",
        "run",
        "tasks",
        "mean, s",
        "p99, s",
        "against A, %",
    ]
    columns += ["tasks an hour and server", "engine, %", "prefix hit, %"]
    stock = {(point.sessions, point.routing): point for point in points if point.run == "A"}
    rows = []
    for point in points:
        base = stock[point.sessions, point.routing]
        change = 100 * (point.mean_s / base.mean_s - 1)
        rows.append(
            [
                f"{point.sessions:,}",
                f"{point.servers:,}",
                f"{point.simulated:,}",
                point.routing,
                f"{point.run} {NAMES[point.run]}",
                f"{point.tasks:,}",
                f"{point.mean_s:.0f}",
                f"{point.p99_s:.0f}",
                "–" if point.run == "A" else f"{change:+.1f}".replace("-", "−"),
                f"{point.per_hour:.0f}",
                f"{point.engine_pct:.0f}",
                f"{point.prefix_hit_pct:.0f}",
            ]
        )
    return Section(title="Fleets", said=_FLEETS, markup=table(columns, rows))


_MODEL = (
    "Service times by arithmetic from data sheets (bench/replay/simulate/hardware.py), measured on no GPU: 3.35 TB/s "
    "and 989 TFLOPS, of which 80 and 50 % are reached, and room for 415,000 tokens. Sessions are drawn from what is "
    "known of agents (bench/replay/simulate/shapes.py). Drafts are used in a step only where they pay, but for NGRAM's."
)
_FLEETS = (
    "Where the router knows sessions, servers are independent: those that are simulated stand for all, each with as "
    "many sessions as a hash gives it. Least loaded: every turn goes to the server with the fewest requests, in a "
    "fleet of as many servers as are simulated."
)


def _over_load(
    points: Sequence[Point],
    title: str,
    said: str,
    runs: Sequence[Run],
    values: Callable[[Run], dict[int, float]],
    unit: str,
    caption: str,
) -> Figure:
    curves = {run: values(run) for run in runs}
    ticks = tuple(float(load) for load in sorted({point.sessions for point in points}))
    ends = [value for curve in curves.values() for value in curve.values()]
    low, high = min(0.0, *ends), max(ends)
    margin = 0.06 * (high - low)
    frame = Frame(
        Axis(low=ticks[0] * 0.85, high=ticks[-1] * 1.15, label="sessions at a time", log=True, ticks=ticks),
        Axis(low=low - margin * (low < 0), high=high + margin, label=said, unit=unit),
    )
    parts = [frame.zero()] if low < 0 else []
    parts += [frame.path(list(curve.items()), f"run-{run}") for run, curve in curves.items()]
    return Figure(
        title=title,
        svg=frame.svg(parts, f"{said} over the number of sessions"),
        caption=caption,
        legend=tuple((f"line run-{run}", label(run)) for run in runs),
    )


def _turning(points: Sequence[Point]) -> str:
    best, past = turn(points)
    gain = gains_pct(points, "F")
    told = f"F gains most at {best.sessions} sessions ({gain[best.sessions]:.0f} %)"
    if past is None:
        return f"{told}, and at {max(gain)} still {gain[max(gain)]:.0f} %."
    return f"{told}, and less than half of that from {past.sessions} on."
