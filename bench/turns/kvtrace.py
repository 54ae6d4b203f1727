"""Sessions with the shape of recorded ones: lines of JSON with the prompt's length and the pause of each request.

A file that is given holds one session a line, `{"requests": [{"in": tokens, "gap_s": seconds}, …]}`, gzipped or not.
Without one, sessions are drawn from what such traces of coding agents look like: first prompts of 15 to 70 thousand
tokens, about a thousand more with each request, and pauses of 12 seconds, half of them between 7 and 29.
"""

import gzip
import math
import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import msgspec

from bench.turns.script import LONGEST_S, Script, Step, write

SESSIONS = 6
# Pauses are shortened as much as sessions are.
_PAUSE_SHARE = 1 / 40


class Request(msgspec.Struct, frozen=True):
    """Tokens of the prompt, and seconds since the last request ended."""

    tokens: int | None = msgspec.field(name="in", default=None)
    gap_s: float | None = None


class Trace(msgspec.Struct, frozen=True):
    """A recorded session."""

    requests: tuple[Request, ...]


def load(path: Path | None) -> list[Trace]:
    """The first sessions of a file that are long enough, or made-up ones."""
    if path is None:
        return [_made_up(number) for number in range(SESSIONS)]
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    decoder = msgspec.json.Decoder(Trace)
    found: list[Trace] = []
    for line in data.splitlines():
        requests = tuple(request for request in decoder.decode(line).requests if request.tokens)
        if len(requests) >= 8:
            found.append(Trace(requests))
        if len(found) == SESSIONS:
            return found
    raise SystemExit(f"{path} has {len(found)} sessions of 8 requests or more; give a trace with {SESSIONS}")


def scripts(traces: Sequence[Trace], turns: int, total: int) -> tuple[Script, ...]:
    """The first turns of the sessions, scaled so that they end at `total` tokens together."""
    taken = [trace.requests[:turns] for trace in traces]
    scale = total / sum(max(request.tokens or 0 for request in requests) for requests in taken)
    return tuple(_script(number, requests, scale) for number, requests in enumerate(taken))


def _script(number: int, requests: Sequence[Request], scale: float) -> Script:
    lengths = [round(scale * (request.tokens or 0)) for request in requests]
    growth = [max(25, after - before) for before, after in pairwise(lengths)]
    script = write(f"trace {number}", growth, first=max(lengths[0], 200))
    pauses = (min(LONGEST_S, _PAUSE_SHARE * (request.gap_s or 0.0)) for request in requests)
    steps = (
        Step(step.arrives, step.answer, pause, step.call) for step, pause in zip(script.steps, pauses, strict=True)
    )
    return Script(script.system, tuple(steps))


def _made_up(number: int) -> Trace:
    source = random.Random(f"trace {number}")
    tokens = source.randint(15_000, 70_000)
    requests = [Request(tokens, 0.0)]
    for _ in range(31):
        tokens += round(source.lognormvariate(math.log(981), 1.2))
        requests.append(Request(tokens, min(600.0, source.lognormvariate(math.log(12.4), 1.1))))
    return Trace(tuple(requests))
