"""What an evaluation found, as rows, as a table, and as JSON."""

import random
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from sglang_paste import __version__
from sglang_paste.mine.evaluate import COPYING, FREQUENT, MINED, Evaluation, Key, Side
from sglang_paste.mine.score import Tally

MACRO = "macro average"
RESAMPLES = 400
SIDES: dict[Side, str] = {
    "unseen": "tasks that were not trained on",
    "recurring": "tasks that were trained on, in other sessions",
}
_LEFT = 2
_HEAD = (
    *("source", "predictor", "calls", "tool@1", "@3", "exact@1", "@3", "@5", "named@1", "@3", "ECE", "chance"),
    *("said@1", "@3", "ECE"),
    *("tool s", "time@1", "@5", "+derived", "wasted/useful"),
)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the report; shares are from 0 to 1, and None where there was nothing to count.

    `exact`: tool and all arguments right, for the first call of each turn with calls, among the first 1, 3, 5
    candidates. `named`: the same where the tool is given. `said`: the same where what the model says before the call is
    known, with `error_said` of the best candidate. `error`: the expected calibration error of the best
    candidate's probability, `error_offered` that of all five; `error_chance`: what the first stays below 19 times of 20
    where the same probabilities are right, since few calls never come out just as often. `time_*`: shares of the
    recorded seconds of tool runs: of calls that were among the candidates exactly (first 1, 3, 5), of those with the
    same widest call as a candidate (`time_wider`) or as an earlier call (`time_earlier`), and of all that a claim of
    either kind would cover. `wasted_per_useful` counts early runs at the planner's default terms.
    """

    side: Side
    source: str
    predictor: str
    calls: int
    turns: int
    tool: tuple[float, ...]
    exact: tuple[float, ...]
    named: tuple[float, ...]
    said: tuple[float, ...]
    error: float | None
    error_offered: float | None
    error_chance: float | None
    error_said: float | None
    useful: int
    wasted: int
    wasted_per_useful: float | None
    seconds: float
    time_exact: tuple[float, ...] | None
    time_wider: float | None
    time_earlier: float | None
    time_derived: float | None
    interval: tuple[float, float] | None = None


def rows(tallies: dict[Key, Tally]) -> list[Row]:
    """A row for each source that has calls and each predictor, and of each side the macro averages over its sources.

    The averages have the interval that holds 95 % of resamples of tasks within each source, for exact top-1.
    """
    found = list[Row]()
    for side in SIDES:
        sources = sorted({source for of, source, _ in tallies if of == side and tallies[of, source, MINED].calls})
        for name in (MINED, COPYING, FREQUENT):
            of_source = [(source, tallies[side, source, name]) for source in sources]
            single = [_row(side, source, name, tally) for source, tally in of_source]
            found.extend(single)
            if single:
                interval = _interval([tally.tasks for _, tally in of_source])
                found.append(_macro(side, name, single, interval))
    return sorted(found, key=lambda row: (row.side != "unseen", row.source == MACRO, row.source))


def _row(side: Side, source: str, name: str, tally: Tally) -> Row:
    calls, seconds = tally.calls, tally.seconds

    def timed(value: float) -> float | None:
        return value / seconds if seconds else None

    return Row(
        side=side,
        source=source,
        predictor=name,
        calls=calls,
        turns=tally.turns,
        tool=tuple(hits / calls for hits in tally.tools),
        exact=tuple(hits / calls for hits in tally.exact),
        named=tuple(hits / calls for hits in tally.named),
        said=tuple(hits / calls for hits in tally.said),
        error=tally.first.error,
        error_offered=tally.offered.error,
        error_chance=tally.first.chance(RESAMPLES),
        error_said=tally.said_first.error,
        useful=tally.useful,
        wasted=tally.wasted,
        wasted_per_useful=tally.wasted / tally.useful if tally.useful else None,
        seconds=seconds,
        time_exact=tuple(value / seconds for value in tally.seconds_exact) if seconds else None,
        time_wider=timed(tally.seconds_wider),
        time_earlier=timed(tally.seconds_earlier),
        time_derived=timed(tally.seconds_derived),
    )


def _macro(side: Side, name: str, single: Sequence[Row], interval: tuple[float, float]) -> Row:
    useful, wasted = sum(row.useful for row in single), sum(row.wasted for row in single)
    return Row(
        side=side,
        source=MACRO,
        predictor=name,
        calls=sum(row.calls for row in single),
        turns=sum(row.turns for row in single),
        tool=_means([row.tool for row in single]),
        exact=_means([row.exact for row in single]),
        named=_means([row.named for row in single]),
        said=_means([row.said for row in single]),
        error=_mean([row.error for row in single]),
        error_offered=_mean([row.error_offered for row in single]),
        error_chance=_mean([row.error_chance for row in single]),
        error_said=_mean([row.error_said for row in single]),
        useful=useful,
        wasted=wasted,
        wasted_per_useful=wasted / useful if useful else None,
        seconds=sum(row.seconds for row in single),
        time_exact=None,
        time_wider=None,
        time_earlier=None,
        time_derived=None,
        interval=interval,
    )


def _interval(of_sources: Sequence[dict[str, list[int]]]) -> tuple[float, float]:
    drawn = random.Random(0)  # noqa: S311
    tasks = [list(each.values()) for each in of_sources]
    means = sorted(_resampled(tasks, drawn) for _ in range(RESAMPLES))
    return means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES)]


def _resampled(tasks: Sequence[Sequence[list[int]]], drawn: random.Random) -> float:
    shares = []
    for of_source in tasks:
        sample = drawn.choices(of_source, k=len(of_source))
        shares.append(sum(hits for _, hits, _ in sample) / sum(calls for calls, _, _ in sample))
    return sum(shares) / len(shares)


def _means(values: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(sum(each) / len(values) for each in zip(*values, strict=True))


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def table(found: Sequence[Row]) -> str:
    """All rows, aligned; shares in per cent."""
    parts = list[str]()
    for side, title in SIDES.items():
        chosen = [row for row in found if row.side == side]
        if chosen:
            parts.append(f"{title}, %:\n{_aligned([_HEAD, *map(_cells, chosen)])}")
    return "\n\n".join(parts)


def summary(found: Sequence[Row], evaluation: Evaluation) -> str:
    """What a reader should know beside the table."""
    lines = [
        f"exact@1 on {SIDES[row.side]}: {100 * row.exact[0]:.1f} % (95 %: {100 * low:.1f} to {100 * high:.1f})"
        for row in found
        if row.predictor == MINED and row.interval is not None
        for low, high in [row.interval]
    ]
    p50, p99 = latency(evaluation)
    decisions = len(evaluation.scorer.nanoseconds)
    lines.append(f"observe and candidates: {p50:.0f} µs p50, {p99:.0f} µs p99 of {decisions:,} decisions")
    if evaluation.leaked:
        lines.append(f"{evaluation.leaked:,} test sessions were trained on themselves and are left out")
    lines.append("The baselines are told the source; mined patterns are not.")
    lines.append("calls: first calls of a turn; ECE: of the best candidate; time: share of the recorded tool seconds")
    lines.append("said: exact, where what the model says before its calls is known")
    lines.append("chance: what the ECE stays below 19 times of 20 where the probabilities are right")
    return "\n".join(lines)


def latency(evaluation: Evaluation) -> tuple[float, float]:
    """Microseconds of taking in what happened and asking for candidates: the median, and the 99th percentile."""
    ordered = sorted(evaluation.scorer.nanoseconds)
    if not ordered:
        return 0.0, 0.0
    return ordered[len(ordered) // 2] / 1e3, ordered[min(int(0.99 * len(ordered)), len(ordered) - 1)] / 1e3


def everything(found: Sequence[Row], evaluation: Evaluation, settings: dict[str, str]) -> dict[str, Any]:
    """All rows, what the plot is drawn from, and how it was asked for."""
    p50, p99 = latency(evaluation)
    return {
        "version": __version__,
        "settings": settings,
        "trained_sessions": evaluation.trained,
        "tested_sessions": evaluation.tested,
        "left_out_sessions": evaluation.leaked,
        "decision_us": {"p50": p50, "p99": p99, "n": len(evaluation.scorer.nanoseconds)},
        "rows": found,
        "reliability": [
            {"side": side, "source": source, "predictor": name, "best": tally.first, "offered": tally.offered}
            for (side, source, name), tally in sorted(evaluation.tallies.items())
        ],
    }


def _cells(row: Row) -> tuple[str, ...]:
    time = (None, None) if row.time_exact is None else (row.time_exact[0], row.time_exact[2])
    shares = (*row.tool, *row.exact, *row.named, row.error, row.error_chance, *row.said[:2], row.error_said)
    times = (*time, row.time_derived)
    wasted = "-" if row.wasted_per_useful is None else f"{row.wasted_per_useful:.2f}"
    return (
        row.source,
        row.predictor,
        f"{row.calls:,}",
        *map(_percent, shares),
        f"{row.seconds:,.0f}",
        *map(_percent, times),
        wasted,
    )


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if number < _LEFT else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
