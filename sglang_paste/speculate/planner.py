"""Which queued calls are worth running early, now."""

from collections.abc import Container, Iterable, Mapping

import msgspec

from sglang_paste.config import Limits, Policy
from sglang_paste.speculate.budget import Usage
from sglang_paste.speculate.entries import Entry


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """How busy the engine is, and the cores that tools run on, each from 0 (idle) to 1 (full)."""

    engine: float = 0.0
    cores: float = 0.0


def price(limits: Limits, *loads: float) -> float:
    """What a wasted second costs in seconds of somebody's waiting, between `limits.price` by the highest of loads."""
    idle, full = limits.price
    return idle + (full - idle) * min(1.0, max((0.0, *loads)))


def utility(probability: float, run_time: float, claimed_in: float, price: float) -> float:
    """Seconds gained by running a call now: p · min(run time, time until claimed) − (1 − p) · price · run time."""
    return probability * min(run_time, claimed_in) - (1 - probability) * price * run_time


def choose(
    queued: Iterable[Entry],
    executing: Iterable[Entry],
    authoritative: Mapping[str, int],
    policies: Mapping[str, Policy],
    limits: Limits,
    load: Load,
    remote: Container[str] = (),
) -> list[Entry]:
    """The entries to start now, best first. `authoritative` counts the running authoritative calls by tool, joined
    entries not among them. A tool is as busy as its `concurrency` is used up, and unless it is `remote` as the cores
    of this machine are.

    The median stands for the expected run time, and the expected time until a call is claimed does not shrink while
    it waits: that it was not claimed so far says nothing about when it will be.
    """

    def cost(tool: str, policy: Policy) -> float:
        cores = 0.0 if tool in remote else load.cores
        return price(limits, load.engine, cores, usage.busy[tool] / policy.concurrency)

    usage = Usage(executing, authoritative)
    gains = [
        (utility(each.probability, each.run_time.p50, each.claimed_in, cost(each.tool, policy)), each)
        for each in queued
        if (policy := policies.get(each.tool)) is not None
    ]
    chosen = []
    for gain, entry in sorted(gains, key=lambda pair: (-pair[0], pair[1].id)):
        if gain > 0 and usage.has_room(entry, policies[entry.tool], limits):
            usage.add(entry)
            chosen.append(entry)
    return chosen
