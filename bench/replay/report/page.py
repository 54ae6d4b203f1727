"""The page: plots and tables in one file that loads nothing from anywhere."""

import string
from collections.abc import Sequence
from html import escape
from pathlib import Path

import msgspec

from bench.replay.report.plots import Figure, label
from bench.replay.report.stats import Interval
from bench.replay.report.summary import Numbers
from sglang_paste.observe.svg import element, line
from sglang_paste.observe.timeline_svg import clean

TEMPLATE = Path(__file__).with_name("page.html")


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """A heading, a sentence, figures, and markup that follows them."""

    title: str
    said: str = ""
    figures: tuple[Figure, ...] = ()
    markup: str = ""


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The whole page; `lead` is markup, titles and sentences are not."""
    template = string.Template(TEMPLATE.read_text(encoding="utf-8"))
    body = "".join(_section(each) for each in sections)
    return template.substitute(title=escape(clean(title)), lead=lead, body=body)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], strong: int | None = None) -> str:
    """A table; cells are markup. The row of number `strong` stands out."""
    head = "".join(f"<th>{escape(each)}</th>" for each in columns)
    lines = [
        f"<tr{' class=main' if number == strong else ''}>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>"
        for number, row in enumerate(rows)
    ]
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(lines)}</table></div>'


def times(found: Sequence[Numbers]) -> str:
    """Task times of each run, with their changes against stock and 95 % intervals."""
    names = ("mean", "p50", "p95", "p99")
    columns = ["run", "n", *(f"{name}, s" for name in names), "mean against A, %", "p99 against A, %"]
    rows = []
    for each in found:
        row = [escape(label(each.run)), f"{each.sessions} × {each.repetitions}"]
        row += [_seconds(each.task_s.get(name)) for name in names]
        row += [_percent(each.change_pct.get(name)) for name in ("mean", "p99")]
        rows.append(row)
    return table(columns, rows, next((at for at, each in enumerate(found) if each.run == "F"), None))


def works(found: Sequence[Numbers]) -> str:
    """What each run did for it: latency, hits by kind, waste, cache, drafts, machine."""
    columns = ["run", "tool latency, s", "reused", "joined", "promoted", "not early", "foreseen", "wasted ÷ foreseen"]
    columns += ["calls a session", "against A", "prefix hit, %", "accept length", "engine, %", "tools at work", "GB"]
    rows = []
    for each in found:
        counts = [each.outcomes.get(kind, 0) for kind in ("reused", "joined", "promoted")]
        missed = sum(each.outcomes.values()) - sum(counts)
        waste, against = each.wasted_per_useful, each.calls_ratio
        rows.append(
            [
                escape(label(each.run)),
                f"{each.tool_latency_s:.2f}",
                *(str(count) for count in (*counts, missed, each.useful)),
                "–" if waste is None else f"{waste:.2f}",
                f"{each.calls_per_session:.1f}",
                "–" if against is None else f"{against:.2f}×",
                f"{each.prefix_hit_pct:.1f}",
                f"{each.accept_length:.2f}",
                f"{each.engine_pct:.0f}",
                f"{each.tools_at_work:.2f}",
                f"{each.peak_gb:.2f}",
            ]
        )
    return table(columns, rows, next((at for at, each in enumerate(found) if each.run == "F"), None))


def _section(section: Section) -> str:
    said = f'<p class="soft">{escape(section.said)}</p>' if section.said else ""
    figures = "".join(_figure(each) for each in section.figures)
    grid = f'<div class="grid">{figures}</div>' if figures else ""
    return f"<h2>{escape(section.title)}</h2>{said}{grid}{section.markup}"


def _figure(figure: Figure) -> str:
    legend = "".join(f"<li>{_swatch(kind)}{escape(words)}</li>" for kind, words in figure.legend)
    shown = f'<ul class="legend">{legend}</ul>' if legend else ""
    caption = f"<figcaption>{escape(figure.caption)}</figcaption>"
    return f"<figure><h3>{escape(figure.title)}</h3>{shown}{figure.svg}{caption}</figure>"


def _swatch(kind: str) -> str:
    if kind.startswith("line"):
        mark = line(1, 6, 27, 6, class_=kind)
    elif kind.startswith("dot"):
        mark = element("circle", cx=14, cy=6, r=4.5, class_=kind)
    else:
        mark = element("rect", x=6, y=0, width=16, height=12, class_=kind)
    return element("svg", mark, width=28, height=12, aria_hidden="true")


def _seconds(found: Interval | None) -> str:
    return "–" if found is None else f"{found.value:.2f} <small>{found.low:.2f} to {found.high:.2f}</small>"


def _percent(found: Interval | None) -> str:
    if found is None:
        return "–"
    value, low, high = (f"{each:+.1f}".replace("-", "−") for each in found)
    return f"{value} <small>{low} to {high}</small>"
