"""What the rows of the bench come to."""

import statistics
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from bench.turns.play import Row

STOCK, OURS = "stock", "ours"
LONG = 90_000
_PARTS = ("tokenise_s", "queue_s", "prefill_s", "emit_s", "decode_s", "overhead_s")

Group = dict[str, Any]


def groups(rows: Sequence[Row]) -> list[Group]:
    """Each scenario with each pool, both sides."""
    ordered = sorted(rows, key=_place)
    return [_group(*place, list(found)) for place, found in groupby(ordered, key=_place)]


def summary(rows: Sequence[Row]) -> dict[str, float | None]:
    """Stock ÷ ours, so that more is better; hit rates in points, ours − stock."""

    def median_ttft(name: str) -> float | None:
        return _ratio(_of(rows, name, "room"), lambda found: statistics.median(row.ttft_s for row in found))

    def overhead(found: Sequence[Row]) -> float:
        return statistics.median(row.overhead_s for row in found)

    pressed = [row for row in rows if row.pool == "pressure"]
    return {
        "ttft_ratio_6": median_ttft("fix-6"),
        "ttft_ratio_35": median_ttft("coding-35"),
        "overhead_ratio_100k": _ratio([row for row in rows if row.prompt >= LONG], overhead),
        "hit_rate_gain_points": _gain([row for row in pressed if row.scenario != "strangers"]),
        "hit_rate_gain_points_strangers": _gain([row for row in pressed if row.scenario == "strangers"]),
        "burst_p99_ratio": _ratio(_of(rows, "burst-8", "pressure"), _p99),
        "burst_p99_ratio_room": _ratio(_of(rows, "burst-8", "room"), _p99),
    }


def hit_rate(rows: Iterable[Row]) -> float:
    """Per cent of the prompts' tokens that were cached, in turns after a session's first."""
    found = [row for row in rows if row.turn]
    return 100 * sum(row.cached for row in found) / max(1, sum(row.prompt for row in found))


def _gain(rows: Sequence[Row]) -> float | None:
    return round(hit_rate(_side(rows, OURS)) - hit_rate(_side(rows, STOCK)), 1) if rows else None


def show(found: Sequence[Group]) -> None:
    """A table with a line for each scenario, pool and side."""
    columns = ["scenario", "pool", "side", "n", "TTFT p50", "p95", "p99", "total p50"]
    columns += ["tokenise", "queue", "prefill", "emit", "decode", "overhead", "prefilled", "hit %"]
    print("| " + " | ".join(columns) + " |\n|---|---|---|" + "---:|" * (len(columns) - 3))
    for group in found:
        for side in (STOCK, OURS):
            numbers = group[side]
            times = [*(numbers["ttft_s"][name] for name in ("p50", "p95", "p99")), numbers["total_s"]["p50"]]
            times += [numbers[part]["p50"] for part in _PARTS]
            cells = [group["scenario"], group["pool"], side, numbers["n"], *(f"{1e3 * time:.0f} ms" for time in times)]
            print("| " + " | ".join(map(str, [*cells, numbers["prefilled"], f"{numbers['hit_rate']:.1f}"])) + " |")
    print()
    for group in found:
        ids, greedy = group["same_ids"], group["same_greedy"]
        print(
            f"{group['scenario']}, {group['pool']}: median TTFT stock ÷ ours {group['ttft_ratio']}; "
            f"prompts with the same tokens on both sides {ids[0]} of {ids[1]}, "
            f"of these the same greedy tokens {greedy[0]} of {greedy[1]}"
        )


def spread(values: Iterable[float]) -> dict[str, float]:
    """Percentiles; the 99th of few values is their largest."""
    ordered = sorted(values)
    places = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    return {name: round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 5) for name, share in places.items()}


def _group(name: str, pool: str, rows: Sequence[Row]) -> Group:
    mine = _side(rows, OURS)
    same = [row for row in mine if row.same_ids]
    result: Group = {"scenario": name, "pool": pool}
    for side in (STOCK, OURS):
        found = _side(rows, side)
        result[side] = {
            "n": len(found),
            **{part: spread(getattr(row, part) for row in found) for part in ("ttft_s", "total_s", *_PARTS)},
            "prefilled": sum(row.prefilled for row in found),
            "hit_rate": round(hit_rate(found), 2),
        }
    result["ttft_ratio"] = round(result[STOCK]["ttft_s"]["p50"] / result[OURS]["ttft_s"]["p50"], 2)
    result["same_ids"] = len(same), len(mine)
    result["same_greedy"] = sum(bool(row.same_greedy) for row in same), len(same)
    return result


def _ratio(rows: Sequence[Row], measure: Any) -> float | None:
    sides = [_side(rows, side) for side in (STOCK, OURS)]
    return round(measure(sides[0]) / measure(sides[1]), 2) if all(sides) else None


def _p99(rows: Sequence[Row]) -> float:
    return spread(row.ttft_s for row in rows if row.turn)["p99"]


def _of(rows: Iterable[Row], name: str, pool: str) -> list[Row]:
    return [row for row in rows if (row.scenario, row.pool) == (name, pool)]


def _side(rows: Iterable[Row], side: str) -> list[Row]:
    return [row for row in rows if row.side == side]


def _place(row: Row) -> tuple[str, str]:
    return row.scenario, row.pool
