"""A plot's frame: scales, axes with units, and marks in it. Colours are classes that the page's style sheet knows."""

import math
from collections.abc import Callable, Iterable, Sequence

import msgspec

from sglang_paste.observe.svg import element, line, round_step, text

WIDTH, HEIGHT = 620.0, 340.0
LEFT, RIGHT, TOP, BOTTOM = 62.0, 26.0, 14.0, 46.0


class Axis(msgspec.Struct, frozen=True, kw_only=True):
    """From `low` to `high`; `log` has a tick at each of `ticks`, else ticks are round numbers. `unit` follows them."""

    low: float
    high: float
    label: str
    unit: str = ""
    log: bool = False
    ticks: tuple[float, ...] = ()

    def place(self, value: float) -> float:
        """Where on the axis, from 0 to 1."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def marks(self, count: int) -> list[float]:
        """The values that get a tick, at most about so many."""
        if self.ticks:
            return list(self.ticks)
        step = round_step((self.high - self.low) / count)
        first = math.ceil(self.low / step - 1e-9)
        return [step * number for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


class Frame:
    """An area with two axes, for points in their units."""

    def __init__(
        self,
        x: Axis,
        y: Axis,
        *,
        width: float = WIDTH,
        height: float = HEIGHT,
        left: float = LEFT,
        right: float = RIGHT,
    ) -> None:
        self.x_axis, self.y_axis = x, y
        self.width, self.height = width, height
        self.left, self.right, self.top, self.bottom = left, width - right, TOP, height - BOTTOM

    def x(self, value: float) -> float:
        """Where a value is, in pixels from the left."""
        return self.left + self.x_axis.place(value) * (self.right - self.left)

    def y(self, value: float) -> float:
        """Where a value is, in pixels from the top."""
        return self.bottom - self.y_axis.place(value) * (self.bottom - self.top)

    def svg(self, parts: Iterable[str], label: str) -> str:
        """The whole picture, with its axes below what is in it."""
        body = "".join([*self._grid(), *parts])
        box = f"0 0 {self.width:.0f} {self.height:.0f}"
        return element("svg", body, class_="plot", viewBox=box, role="img", aria_label=label)

    def path(self, points: Sequence[tuple[float, float]], kind: str) -> str:
        """A line through points."""
        return element("polyline", points=self._points(points), class_=f"line {kind}")

    def steps(self, points: Sequence[tuple[float, float]], kind: str) -> str:
        """A staircase that rises at each point."""
        corners, level = [], self.y_axis.low
        for x, y in points:
            corners += [(x, level), (x, y)]
            level = y
        return element("polyline", points=self._points(corners), class_=f"line {kind}")

    def band(self, points: Sequence[tuple[float, float, float]], kind: str) -> str:
        """The area between a low and a high line."""
        edge = [(x, low) for x, low, _ in points] + [(x, high) for x, _, high in reversed(points)]
        return element("polygon", points=self._points(edge), class_=f"band {kind}")

    def dot(self, x: float, y: float, kind: str, radius: float = 4.0) -> str:
        """A point."""
        return element("circle", cx=self.x(x), cy=self.y(y), r=radius, class_=f"dot {kind}")

    def whisker(self, x: float, low: float, high: float, kind: str) -> str:
        """An interval, upright."""
        at, bottom, top = self.x(x), self.y(low), self.y(high)
        ends = line(at - 4, bottom, at + 4, bottom) + line(at - 4, top, at + 4, top)
        return element("g", line(at, bottom, at, top) + ends, class_=f"whisker {kind}")

    def note(self, x: float, y: float, said: str, dx: float = 0.0, dy: float = 0.0, anchor: str = "start") -> str:
        """Words at a point."""
        return text(self.x(x) + dx, self.y(y) + dy, said, anchor)

    def zero(self) -> str:
        """The line of no change."""
        return line(self.left, self.y(0.0), self.right, self.y(0.0), class_="zero")

    def _grid(self) -> Iterable[str]:
        for value in self.y_axis.marks(5):
            y = self.y(value)
            yield line(self.left, y, self.right, y, class_="grid")
            yield text(self.left - 8, y + 4, tick(value) + self.y_axis.unit, "end", class_="tick")
        for value in self.x_axis.marks(7):
            x = self.x(value)
            yield line(x, self.bottom, x, self.bottom + 4, class_="axis")
            yield text(x, self.bottom + 18, tick(value) + self.x_axis.unit, "middle", class_="tick")
        yield line(self.left, self.bottom, self.right, self.bottom, class_="axis")
        yield text((self.left + self.right) / 2, self.height - 8, self.x_axis.label, "middle", class_="name")
        middle = (self.top + self.bottom) / 2
        turned = f"rotate(-90 14 {middle:.0f})"
        yield text(14.0, middle, self.y_axis.label, "middle", class_="name", transform=turned)

    def _points(self, points: Iterable[tuple[float, float]]) -> str:
        return " ".join(f"{self.x(x):.1f},{self.y(y):.1f}" for x, y in points)


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """A bar of a stack: its name, its segments as (class, length), and what stands behind it."""

    name: str
    segments: tuple[tuple[str, float], ...]
    said: str = ""


def stacks(bars: Sequence[Bar], axis: Axis, label: str, show: Callable[[float], str], left: float = 190.0) -> str:
    """Lying stacks of segments, each with its length in it where that fits; behind them what is said of them."""
    row, height = 30.0, 20.0
    whole = TOP + row * len(bars) + BOTTOM
    frame = Frame(axis, Axis(low=0, high=1, label="", ticks=(2.0,)), height=whole, left=left, right=112.0)
    parts = [line(frame.x(value), TOP, frame.x(value), frame.bottom, class_="grid") for value in axis.marks(6)]
    for number, bar in enumerate(bars):
        y, at = TOP + row * number + (row - height) / 2, axis.low
        parts.append(text(left - 10, y + 14, bar.name, "end", class_="row"))
        for kind, length in bar.segments:
            x, wide = frame.x(at), frame.x(at + length) - frame.x(at)
            parts.append(element("rect", x=x, y=y, width=max(wide - 1, 0.3), height=height, class_=f"bar {kind}"))
            said = show(length)
            if wide > 7.5 * len(said) + 6:
                parts.append(text(x + wide / 2, y + 14, said, "middle", class_=f"label on-{kind}"))
            at += length
        parts.append(text(frame.x(at) + 8, y + 14, bar.said, class_="total"))
    body = [line(left, frame.bottom, frame.right, frame.bottom, class_="axis"), *parts]
    for value in axis.marks(6):
        body.append(text(frame.x(value), frame.bottom + 18, tick(value) + axis.unit, "middle", class_="tick"))
    body.append(text((left + frame.right) / 2, whole - 8, axis.label, "middle", class_="name"))
    box = f"0 0 {WIDTH:.0f} {whole:.0f}"
    return element("svg", "".join(body), class_="plot", viewBox=box, role="img", aria_label=label)


def tick(value: float) -> str:
    """A number for an axis: no more digits than needed, a true minus sign."""
    return f"{value:,.10g}".replace("-", "−")
