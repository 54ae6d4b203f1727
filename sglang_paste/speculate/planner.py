"""Which queued calls are worth running early, now."""

from collections.abc import Iterable, Mapping

import msgspec

from sglang_paste.config import Limits, Policy
from sglang_paste.speculate.entries import Entry


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """How busy things are, each from 0 (idle) to 1 (full)."""

    engine: float = 0.0
    tools: float = 0.0


def utility(probability: float, run_time: float, claimed_in: float, price: float) -> float:
    """Seconds gained by running a call now: p · min(run time, time until claimed) − (1 − p) · price · run time."""
    raise NotImplementedError


def choose(
    queued: Iterable[Entry],
    executing: Iterable[Entry],
    authoritative: Mapping[str, int],
    policies: Mapping[str, Policy],
    limits: Limits,
    load: Load,
) -> list[Entry]:
    """The entries to start now, best first. `authoritative` counts the running authoritative calls by tool, joined
    entries not among them. The caller starts all of them or asks again."""
    raise NotImplementedError
