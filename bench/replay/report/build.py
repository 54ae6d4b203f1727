"""From rows to a report: the JSON summary, the text table and the page."""

import math
from collections.abc import Sequence
from typing import Any

from bench.replay.records import Block, Row, Setting, Summary
from bench.replay.report import page, plots
from bench.replay.report.compare import Rows
from bench.replay.report.page import Section
from bench.replay.report.plots import Figure
from bench.replay.report.stats import Interval, change, mean
from bench.replay.report.summary import HITS, Numbers, Part, numbers, parts, summary
from sglang_paste.mine.plot import wilson

BINS = 10

Bins = list[tuple[float, float, int, tuple[float, float]]]


def as_json(found: Sequence[Row], sim_error_pct: float | None = None) -> dict[str, Any]:
    """Everything that the page shows, as numbers."""
    rows = Rows(found)
    main = rows.with_runs("A", "F")
    return {
        "summary": summary(found, sim_error_pct),
        "runs": numbers(rows),
        "parts": parts(rows, main) if main else [],
        "reliability": reliability(rows.blocks(main, "F")) if main else [],
    }


def as_text(found: Sequence[Numbers]) -> str:
    """Two tables for each setting: task times, and what was done for them."""
    settings = dict.fromkeys(each.setting for each in found)
    told = []
    for setting in settings:
        here = [each for each in found if each.setting == setting]
        times = [_TIMES, *(_time_cells(each) for each in here)]
        works = [_WORKS, *(_work_cells(each) for each in here)]
        told.append(f"{plots.setting_title(setting)}\n\n{_columns(times)}\n\n{_columns(works)}\n")
    return "\n".join(told)


def as_page(found: Sequence[Row], sim_error_pct: float | None = None, more: Sequence[Section] = ()) -> str:
    """The HTML page."""
    rows = Rows(found)
    measured = numbers(rows)
    best = max(rows.settings, key=lambda setting: len(rows.runs(setting)))
    others = [setting for setting in rows.settings if setting != best]
    sections = [_section(rows, setting, measured, drawn=setting == best) for setting in (best, *others)]
    lead = _lead(summary(found, sim_error_pct))
    return page.page("Replay: recorded agents on stock SGLang and with everything on", lead, [*sections, *more])


def reliability(blocks: Sequence[Block]) -> Bins:
    """How often foreseen calls that ran early were asked for, in bins of their probability: mean probability, share,
    count, interval."""
    foreseen = [each for block in blocks for each in block.early if not each.written]
    pairs = [(each.probability, each.end) for each in foreseen if each.probability is not None]
    found: Bins = []
    for number in range(BINS):
        inside = [(odds, end == "claimed") for odds, end in pairs if min(int(odds * BINS), BINS - 1) == number]
        if inside:
            hits, count = sum(hit for _, hit in inside), len(inside)
            odds = math.fsum(each for each, _ in inside) / count
            found.append((odds, hits / count, count, wilson(hits, count)))
    return found


def _section(rows: Rows, setting: Setting, measured: Sequence[Numbers], *, drawn: bool) -> Section:
    here = [each for each in measured if each.setting == setting]
    figures = _figures(rows, setting, here) if drawn and {"A", "F"} <= rows.runs(setting) else []
    kind = "sessions arrive on their own" if setting.rate else "a closed loop: who is done begins the next session"
    said = f"{setting.model} model, recorded tool times × {setting.scale:.3g}, {kind}."
    tables = f"<h3>Task times</h3>{page.times(here)}<h3>What was done for it</h3>{page.works(here)}"
    return Section(title=plots.setting_title(setting), said=said, figures=tuple(figures), markup=tables)


def _figures(rows: Rows, setting: Setting, here: Sequence[Numbers]) -> list[Figure]:
    shown = [each for each in here if each.run not in ("wrong", "same")]
    times = {each.run: [task.task_s for task in rows.tasks(setting, each.run)] for each in shown}
    everything = next(each for each in here if each.run == "F")
    figures: list[Figure | None] = [
        plots.task_times(times, everything.sessions),
        plots.where_time_goes(here),
        plots.hits(here),
        plots.by_part(_few(parts(rows, setting))),
        plots.over_agents(_gains_by_agents(rows, setting)),
        plots.over_share(_gains_by_share(rows, setting), everything.hit_rate),
        plots.reliability(reliability(rows.blocks(setting, "F"))),
    ]
    return [each for each in figures if each is not None]


def _few(found: Sequence[Part]) -> list[Part]:
    """Without parts that are the whole domain once more."""
    sizes = {part.domain: part.sessions for part in found if part.recurring is None}
    return [part for part in found if part.recurring is None or part.sessions < sizes[part.domain]]


def _gains_by_agents(rows: Rows, setting: Setting) -> list[tuple[int, Interval]]:
    alike = [each for each in rows.settings if plots.same_but_agents(each, setting)]
    return sorted((each.agents, gain) for each in alike if (gain := _gain(rows, each)))


def _gains_by_share(rows: Rows, setting: Setting) -> list[tuple[float, Interval]]:
    found = []
    for each in rows.settings:
        gain = _gain(rows, each) if plots.same_but_scale(each, setting) else None
        if gain:
            stock = rows.tasks(each, "A")
            share = sum(task.tools_s for task in stock) / sum(task.task_s for task in stock)
            found.append((share, gain))
    return sorted(found)


def _gain(rows: Rows, setting: Setting) -> Interval | None:
    pair = rows.pair(setting, "A", "F")
    if pair is None:
        return None
    value, low, high = change(*pair, mean)
    return Interval(-value, -high, -low)


def _lead(found: Summary) -> str:
    def said(name: str) -> str:
        value = found[name]
        return "not measured" if value is None else f"<b>{value:.1f}</b> %".replace("-", "−")

    return (
        f'<p class="lead">Mean task time saved against stock: {said("mean_reduction_pct")}; 99th percentile: '
        f"{said('p99_reduction_pct')}; against stock with NGRAM: {said('vs_ngram_reduction_pct')}.</p>"
        f'<p class="soft">Tools are {said("tool_share_pct")} of a task on stock. Controls: all predictions wrong costs '
        f"{said('all_wrong_overhead_pct')}, stock against itself differs by {said('a_vs_a_pct')}. "
        "Recorded sessions in a closed loop on real servers; the model runs in full and writes the recorded tokens. "
        "Intervals are 95 %, by a bootstrap over sessions.</p>"
    )


_TIMES = ["run", "n", "mean, s", "p50", "p95", "p99", "mean against A, %", "p99 against A, %"]
_WORKS = ["run", "tool latency, s", "reused", "joined", "promoted", "not early", "foreseen", "wasted/foreseen"]
_WORKS += ["calls/session"]
_WORKS += ["against A", "prefix hit, %", "accept length", "engine, %", "tools at work", "GB"]


def _time_cells(each: Numbers) -> list[str]:
    times = [each.task_s.get(name) for name in ("mean", "p50", "p95", "p99")]
    changes = [each.change_pct.get(name) for name in ("mean", "p99")]
    return [
        plots.label(each.run),
        f"{each.sessions} × {each.repetitions}",
        *("–" if one is None else f"{one.value:.2f} ({one.low:.2f} to {one.high:.2f})" for one in times),
        *("–" if one is None else f"{one.value:+.1f} ({one.low:+.1f} to {one.high:+.1f})" for one in changes),
    ]


def _work_cells(each: Numbers) -> list[str]:
    counts = [each.outcomes.get(kind, 0) for kind in HITS]
    waste, against = each.wasted_per_useful, each.calls_ratio
    return [
        plots.label(each.run),
        f"{each.tool_latency_s:.3f}",
        *(str(count) for count in (*counts, sum(each.outcomes.values()) - sum(counts), each.useful)),
        "–" if waste is None else f"{waste:.2f}",
        f"{each.calls_per_session:.1f}",
        "–" if against is None else f"{against:.2f}",
        f"{each.prefix_hit_pct:.1f}",
        f"{each.accept_length:.2f}",
        f"{each.engine_pct:.0f}",
        f"{each.tools_at_work:.2f}",
        f"{each.peak_gb:.2f}",
    ]


def _columns(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
        )
        for line in lines
    )
