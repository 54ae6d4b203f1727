"""All of the simulator in one call: the rows of a real replay once more, one server under load, and fleets."""

import json
import random
import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from bench.replay.records import Row
from bench.replay.report.page import Section
from bench.replay.report.plots import setting_title
from bench.replay.servers import LIMITS
from bench.replay.simulate import figures, shapes
from bench.replay.simulate.fleet import LOADS, Point, fleets, over_load, over_share
from bench.replay.simulate.hardware import h100_8b
from bench.replay.simulate.server import Options
from bench.replay.simulate.validate import Checked, sim_error_pct, validate
from bench.replay.simulate.workload import Session
from sglang_paste.config import Limits

SESSIONS = 400
POOL = 65_536
SIZES = (64, 1_000, 100_000)
# A fleet's tools are elsewhere and plenty; what limits early runs is their price.
MANY = Limits(speculative=4096, per_session=3, per_tool=4096)


class Simulated(msgspec.Struct, frozen=True, kw_only=True):
    """All that was simulated."""

    checked: tuple[Checked, ...] = ()
    loads: tuple[Point, ...] = ()
    shares: tuple[tuple[float, Point], ...] = ()
    fleets: tuple[Point, ...] = ()
    hit_rate: float = 0.0

    @property
    def sections(self) -> list[Section]:
        """As a report shows it."""
        found = [figures.validation(self.checked)] if self.checked else []
        if self.loads:
            found.append(figures.loads(self.loads))
        if self.shares:
            found.append(figures.shares(self.shares, self.hit_rate))
        return [*found, figures.fleet(self.fleets)] if self.fleets else found


def simulate(
    rows: Sequence[Row],
    pool: int = POOL,
    loads: Sequence[int] = LOADS,
    sizes: Sequence[int] = (),
    sessions: Sequence[Session] = (),
) -> Simulated:
    """The rows once more in the model, and what it says of larger machines; `sizes` are sessions of fleets, which play
    `sessions`, or made-up ones."""
    checked = tuple(validate(rows, pool=pool, limits=LIMITS))
    foresight = shapes.measured(rows) or shapes.ASSUMED
    sessions = random.Random(0).sample(sessions, min(len(sessions), SESSIONS)) or shapes.made_up(SESSIONS)
    options = Options(policies=shapes.policies(sessions), limits=MANY, gated=True)
    service = h100_8b()
    points: list[Point] = []
    for point in over_load(sessions, service, options, foresight, loads):
        points.append(point)
        _tell(point)
    large: list[Point] = []
    for point in fleets(sessions, service, options, foresight, sizes):
        large.append(point)
        _tell(point)
    shares = tuple(over_share(sessions, service, options, foresight)) if points else ()
    hit_rate = sum(share for moment, share in foresight.right.items() if moment != "stream")
    return Simulated(checked=checked, loads=tuple(points), shares=shares, fleets=tuple(large), hit_rate=hit_rate)


def as_json(found: Simulated) -> dict[str, Any]:
    """What was simulated, and how far the model is from what was measured."""
    return {"sim_error_pct": sim_error_pct(found.checked), **msgspec.structs.asdict(found)}


def show(found: Simulated) -> None:
    """Tables for a terminal."""
    for each in found.checked:
        print(
            f"{setting_title(each.setting):48} {each.run:6} n {each.n:4}  measured {each.real_s:8.2f} s  "
            f"simulated {each.simulated_s:8.2f} s  {each.error_pct:+6.1f} %"
        )
    print(json.dumps({"sim_error_pct": sim_error_pct(found.checked)}))


def _tell(point: Point) -> None:
    print(
        f"{point.sessions:>7,} sessions on {point.servers:>5,} servers, {point.routing}, {point.run:2}: "
        f"mean {point.mean_s:.1f} s, engine {point.engine_pct:.0f} %, prefix hit {point.prefix_hit_pct:.0f} %",
        file=sys.stderr,
        flush=True,
    )
