"""The reliability plot: how often candidates of a probability were right, a panel for each source, as one SVG."""

import math
from collections.abc import Iterator, Mapping

from sglang_paste.mine.evaluate import MINED, Key, Side
from sglang_paste.mine.score import BINS, Reliability, Tally
from sglang_paste.observe.svg import element, line, text

_SIZE, _GAP_X, _GAP_Y, _LEFT, _TOP, _BARS = 180, 72, 84, 48, 84, 30
_PER_ROW = 5
_INK, _SOFT, _GRID, _LINE, _FILL = "#1f2328", "#6e7781", "#d0d7de", "#0969da", "#8ec3ff"
_STYLE = (
    f"text {{ font: 11px system-ui, sans-serif; fill: {_SOFT}; }}"
    f" .title {{ font-size: 13px; font-weight: 600; fill: {_INK}; }}"
)
_SIDES: dict[Side, str] = {"unseen": "new tasks", "recurring": "known tasks"}


def reliability(tallies: Mapping[Key, Tally]) -> str:
    """The SVG's text. A dot is a bin of the best candidate's probability, as large as it is full; bars count."""
    panels = [
        (f"{source}, {_SIDES[side]}", tally.first)
        for (side, source, name), tally in sorted(tallies.items(), key=lambda item: (item[0][0] != "unseen", item[0]))
        if name == MINED and any(tally.first.counts)
    ]
    rows = max(math.ceil(len(panels) / _PER_ROW), 1)
    width = _LEFT + min(max(len(panels), 3), _PER_ROW) * (_SIZE + _GAP_X)
    height = _TOP + rows * (_SIZE + _BARS + _GAP_Y)
    body = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">',
        f'<style>{_STYLE}</style><rect width="100%" height="100%" fill="white"/>',
        text(_LEFT, 26, "How often the best candidate was right, by its probability", class_="title"),
        text(
            _LEFT, 44, "In per cent. On the dashed line the probability can be trusted. Whiskers: 95 %. Bars: how many."
        ),
    ]
    for number, (title, bins) in enumerate(panels):
        x = _LEFT + number % _PER_ROW * (_SIZE + _GAP_X)
        y = _TOP + number // _PER_ROW * (_SIZE + _BARS + _GAP_Y)
        body += [f'<g transform="translate({x} {y})">', *_panel(title, bins), "</g>"]
    return "\n".join([*body, "</svg>\n"])


def _panel(title: str, bins: Reliability) -> Iterator[str]:
    error, total, most = bins.error or 0.0, sum(bins.counts), max(bins.counts)
    yield text(0, -8, title, class_="title")
    for tick in (0.0, 0.5, 1.0):
        at = tick * _SIZE
        yield line(0, _SIZE - at, _SIZE, _SIZE - at, stroke=_GRID)
        yield line(at, 0, at, _SIZE, stroke=_GRID)
        yield text(-6, _SIZE - at + 4, f"{100 * tick:.0f}", anchor="end")
        yield text(at, _SIZE + _BARS + 16, f"{100 * tick:.0f}", anchor="middle")
    yield line(0, _SIZE, _SIZE, 0, stroke=_SOFT, stroke_dasharray="4 4")
    points = list(_points(bins))
    yield f'<polyline fill="none" stroke="{_LINE}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in points)}"/>'
    for x, y, share, (low, high) in points:
        yield line(x, (1 - high) * _SIZE, x, (1 - low) * _SIZE, stroke=_LINE)
        yield element("circle", cx=x, cy=y, r=2.5 + 6 * math.sqrt(share), fill=_LINE, opacity="0.75")
    for place, count in enumerate(bins.counts):
        high = (_BARS - 4) * count / most
        x, wide = place * _SIZE / BINS + 1, _SIZE / BINS - 2
        yield element("rect", x=x, y=_SIZE + _BARS - high, width=wide, height=high, fill=_FILL)
    yield text(_SIZE / 2, _SIZE + _BARS + 34, f"ECE {100 * error:.1f} %, n = {total:,}", anchor="middle")


def _points(bins: Reliability) -> Iterator[tuple[float, float, float, tuple[float, float]]]:
    """For each bin with something in it: where it stands, its share of all, and the interval its hit rate is in."""
    total = sum(bins.counts)
    for count, probability, hits in zip(bins.counts, bins.sums, bins.hits, strict=True):
        if count:
            yield probability / count * _SIZE, (1 - hits / count) * _SIZE, count / total, wilson(hits, count)


def wilson(hits: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    share, spread = hits / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(middle - half, 0.0), min(middle + half, 1.0)
