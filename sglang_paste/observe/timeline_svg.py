"""The lanes of one task as inline SVG: pure drawing, everything from outside is escaped."""

import html
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

import msgspec

from sglang_paste.observe.spans import Lane, Span
from sglang_paste.observe.svg import round_step

WIDTH = 1352
LEFT = 150
RIGHT = 150
BAR = 20
GAP = 4
_HEADER = 24
_CHAR = 6.7
_NAMES: dict[Lane, str] = {"model": "model", "tool": "tools (waited)", "speculative": "early runs"}
_SIDES = {"stock": "Stock SGLang", "paste": "With tool speculation"}


class TimelineRun(msgspec.Struct, frozen=True, kw_only=True):
    """One task run once. Times in seconds; `start` is when the task began, on the clock of the spans."""

    label: str
    side: Literal["stock", "paste"]
    spans: tuple[Span, ...]
    start: float
    task_time: float
    exposed_tool_time: float


def draw(runs: Sequence[TimelineRun]) -> str:
    """The runs of one task above each other on one time axis."""
    longest = max([0.001, *(_length(run) for run in runs)])
    scale = (WIDTH - LEFT - RIGHT) / longest
    stock = next((run.task_time for run in runs if run.side == "stock"), None)
    top = 26.0
    parts: list[str] = []
    for run in runs:
        drawn, height = _draw_run(run, top, scale, stock if run.side == "paste" else None)
        parts += drawn
        top += height + 12
    axis = _axis(longest, scale, top - 8)
    name = html.escape(clean(runs[0].label), quote=True)
    return (
        f'<svg class="task" viewBox="0 0 {WIDTH} {top:.0f}" role="img" aria-label="{name}">'
        f"{''.join(axis)}{''.join(parts)}</svg>"
    )


def swatch(kind: str) -> str:
    """A small picture of one kind of bar or mark, for the legend."""
    if kind in ("ready", "claimed"):
        return f'<svg width="16" height="16" aria-hidden="true">{_mark(kind, 8.0, 8.0)}</svg>'
    if kind == "overlap":
        return '<svg width="34" height="16" aria-hidden="true"><rect class="overlap" width="34" height="16"/></svg>'
    bar = '<rect x="1" y="1" width="32" height="14" rx="2"/>'
    return f'<svg width="34" height="16" aria-hidden="true"><g class="{kind}">{bar}</g></svg>'


def hatch() -> str:
    """The pattern of wasted runs, once per page."""
    return (
        '<svg width="0" height="0" aria-hidden="true"><defs><pattern id="hatch" width="7" height="7" '
        'patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect width="7" height="7"/>'
        '<path d="M0 0V7"/></pattern></defs></svg>'
    )


def clean(text: str) -> str:
    """The text without control and direction characters, which could garble the page."""
    return "".join(char if char.isprintable() else " " for char in text)


def shorten(text: str, width: float) -> str:
    """As much of the text as fits `width` pixels, with an ellipsis where it was cut; empty where nothing fits."""
    room = int(width / _CHAR)
    if sum(map(_cells, text)) <= room:
        return text
    kept, used = [], 1
    for char in text:
        used += _cells(char)
        if used > room:
            break
        kept.append(char)
    return "".join(kept).rstrip() + "…" if len(kept) >= 2 else ""


def rows(spans: Sequence[Span], until: float) -> list[list[Span]]:
    """The spans in as few rows as keep them apart in time."""
    placed: list[list[Span]] = []
    ends: list[float] = []
    for span in sorted(spans, key=lambda span: span.start):
        row = next((at for at, end in enumerate(ends) if end <= span.start + 1e-6), len(ends))
        if row == len(ends):
            placed.append([])
            ends.append(0.0)
        placed[row].append(span)
        ends[row] = max([until if span.end is None else span.end, *(mark.time for mark in span.marks)])
    return placed


def _length(run: TimelineRun) -> float:
    ends = [(span.start if span.end is None else span.end) - run.start for span in run.spans]
    return max([run.task_time, *ends])


def _draw_run(run: TimelineRun, top: float, scale: float, stock: float | None) -> tuple[list[str], float]:
    """The SVG parts of one run, and their height."""
    until = run.start + _length(run)
    y = top + _HEADER
    lanes: list[str] = []
    bars: list[str] = []
    shown: tuple[Lane, ...] = ("model", "tool") if run.side == "stock" else ("model", "speculative", "tool")
    for lane in shown:
        stacked = rows([span for span in run.spans if span.lane == lane], until) or [[]]
        height = len(stacked) * (BAR + GAP) + GAP
        lanes.append(f'<rect class="lane" x="{LEFT}" y="{y:.1f}" width="{WIDTH - LEFT - RIGHT}" height="{height}"/>')
        lanes.append(f'<text class="name" x="0" y="{y + GAP + 14:.1f}">{_NAMES[lane]}</text>')
        for at, row in enumerate(stacked):
            for span in row:
                bars.append(_draw_span(span, run, y + GAP + at * (BAR + GAP), scale, until))
        y += height + 2
    low, end = top + _HEADER, LEFT + run.task_time * scale
    beside = LEFT + _length(run) * scale + 6
    head = [f'<text class="side" x="0" y="{top + 16:.1f}">{_SIDES[run.side]}</text>']
    columns = [
        f'<rect class="overlap" x="{LEFT + (a - run.start) * scale:.1f}" y="{low:.1f}" '
        f'width="{(b - a) * scale:.1f}" height="{y - low - 2:.1f}"/>'
        for a, b in overlaps(run)
    ]
    tail = [
        f'<line class="end" x1="{end:.1f}" x2="{end:.1f}" y1="{low - 6:.1f}" y2="{y - 2:.1f}"/>',
        f'<text class="total" x="{beside:.1f}" y="{low + 12:.1f}">{seconds(run.task_time)}</text>',
    ]
    if stock:
        change = 100 * (run.task_time - stock) / stock
        tail.append(f'<text x="{beside:.1f}" y="{low + 28:.1f}">{change:+.1f} % vs. stock</text>'.replace("-", "−"))
    return head + lanes + columns + bars + tail, y - top


def overlaps(run: TimelineRun) -> list[tuple[float, float]]:
    """When a run that was later claimed worked before it was asked for, joined where they touch."""
    early = []
    for span in run.spans:
        if span.lane == "speculative" and was_claimed(span):
            asked = [mark.time for mark in span.marks if mark.name == "claimed"]
            early.append((span.start, min([*asked, run.start + _length(run) if span.end is None else span.end])))
    joined: list[tuple[float, float]] = []
    for a, b in sorted(early):
        if joined and a <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(b, joined[-1][1]))
        elif b > a:
            joined.append((a, b))
    return joined


def _draw_span(span: Span, run: TimelineRun, y: float, scale: float, until: float) -> str:
    x = LEFT + (span.start - run.start) * scale
    width = max(((until if span.end is None else span.end) - span.start) * scale, 2.0)
    kind = kind_of(span)
    opened = " open" if span.end is None else ""
    marks = [
        ("ready" if mark.name == "call ready" else "claimed", LEFT + (mark.time - run.start) * scale)
        for mark in span.marks
    ]
    free, room = _widest(x, x + width, [at for _, at in marks if at < x + width])
    text = shorten(clean(span.name if span.lane != "model" else span.detail or span.name), room)
    label = (
        f'<svg x="{free:.1f}" y="{y:.1f}" width="{room:.1f}" height="{BAR}">'
        f'<text class="label" x="0" y="14">{html.escape(text)}</text></svg>'
        if text
        else ""
    )
    bar = f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{BAR}" rx="2"/>'
    last = max([x + width, *(at for _, at in marks)])
    if last > x + width:
        bar += f'<path class="kept" d="M{x + width:.1f} {y + BAR / 2:.1f}H{last:.1f}"/>'
    drawn = "".join(_mark(name, at, y + BAR / 2) for name, at in marks)
    title = html.escape(_title(span, run, until))
    return f'<g class="span {kind}{opened}" tabindex="0"><title>{title}</title>{bar}{label}{drawn}</g>'


def _widest(left: float, right: float, marks: Sequence[float]) -> tuple[float, float]:
    """Where the widest part of a bar begins that no mark covers, and its width."""
    edges = [left - 3, *sorted(marks), right + 3]
    room, free = max((b - a - 16, a + 8) for a, b in pairwise(edges))
    return free, max(room, 0.0)


def kind_of(span: Span) -> str:
    """How a span is coloured: model, tool, pending, hit, or waste (an early run that nobody asked for)."""
    if span.lane != "speculative":
        return span.lane
    if was_claimed(span):
        return "hit"
    return "pending" if span.end is None or span.outcome in ("running", "ready") else "waste"


def was_claimed(span: Span) -> bool:
    """Whether somebody asked for an early run's result."""
    return span.outcome == "claimed" or any(mark.name == "claimed" for mark in span.marks)


def _title(span: Span, run: TimelineRun, until: float) -> str:
    end = until if span.end is None else span.end
    said = " ".join(part for part in (clean(span.name), clean(span.detail)) if part)
    marks = "".join(f", {mark.name} at {seconds(mark.time - run.start)}" for mark in span.marks)
    lane = {"model": "model", "tool": "waited for tool", "speculative": "ran early"}[span.lane]
    when = f"{seconds(span.start - run.start)} to {seconds(end - run.start)} ({seconds(end - span.start)})"
    return f"{lane}: {said} | {when}, {clean(span.outcome)}{marks}"


def _mark(kind: str, x: float, y: float) -> str:
    if kind == "ready":
        return f'<circle class="ready" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
    points = f"{x:.1f},{y - 7:.1f} {x + 5:.1f},{y:.1f} {x:.1f},{y + 7:.1f} {x - 5:.1f},{y:.1f}"
    return f'<polygon class="claimed" points="{points}"/>'


def _axis(longest: float, scale: float, bottom: float) -> Iterator[str]:
    step = round_step(90 / scale)
    for at in range(int(longest / step + 1e-9) + 1):
        x = LEFT + at * step * scale
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="20" y2="{bottom:.1f}"/>'
        yield f'<text class="tick" x="{x:.1f}" y="14" text-anchor="middle">{at * step:.6g} s</text>'


def seconds(value: float) -> str:
    """A duration for the reader: `12.3 s`, `0.45 s`, `3 ms`."""
    if abs(value) >= 10:
        return f"{value:.1f} s"
    return f"{value:.2f} s" if abs(value) >= 0.1 or value == 0 else f"{1000 * value:.3g} ms"


def _cells(char: str) -> int:
    return 2 if unicodedata.east_asian_width(char) in ("W", "F") else 1
