"""From the turns of a real replay to service times.

They come from stock, but for a step with drafts and what a turn takes where a server keeps a session's tokens, which
come from runs with these. They are fitted to the times of single turns; how long a task takes, or what a run gains, is
not looked at.
"""

from collections.abc import Sequence
from statistics import median

import msgspec
import numpy as np

from bench.replay.records import Call, Task, Turn
from bench.replay.simulate.fit import Array, nonnegative
from bench.replay.simulate.workload import Prefill, Step

# How long a prefill takes says how much of it was left when another request came, and the other way round.
ROUNDS = 6
OUTLIER = 3.0

Block = Sequence[Task]


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """The service times of a run's turns, and how far single turns are from them: the median relative error of the time
    to the first token and of the generation."""

    prefill: Prefill
    step: Step
    turn: float
    tokenise: float
    first_error: float
    generation_error: float


def measure(blocks: Sequence[Block], known: Measured | None = None) -> Measured:
    """Service times from the turns of one run. With `known`, all but the step and the turn stays what it was."""
    found = np.zeros(8) if known is None else _vector(known)
    for _ in range(1 if known else ROUNDS):
        parts = [_equations([turn for task in block for turn in task.turns], found[3:6]) for block in blocks]
        first, first_s, decode, decode_s = (np.concatenate(each) for each in zip(*parts, strict=True))
        if known is None:
            found = nonnegative(np.vstack([first, decode]), np.concatenate([first_s, decode_s]))
        else:
            rest = np.maximum(decode_s - decode[:, 3:] @ found[3:], 1e-3)
            found = np.concatenate([nonnegative(decode[:, :3], rest), found[3:]])
    found = _unbiased(found, first, first_s, decode, decode_s)
    fixed, request, context, prefill, token, pair, tokenise, turn = (float(each) for each in found)
    return Measured(
        step=Step(fixed=fixed, request=request, context=context),
        prefill=Prefill(fixed=prefill, token=token, pair=pair),
        tokenise=tokenise,
        turn=turn,
        first_error=_error(first @ found, first_s),
        generation_error=_error(decode @ found, decode_s),
    )


def overheads(calls: Sequence[Call]) -> tuple[float, float]:
    """Median seconds that a call takes beside its tool, and that one takes whose result is there."""
    ran = [call.latency_s - call.duration_s for call in calls if call.outcome == "run"]
    reused = [call.latency_s for call in calls if call.outcome == "reused"]
    call = max(median(ran), 0.0) if ran else 0.0
    return call, min(median(reused), call) if reused and ran else call


def pause(tasks: Sequence[Task]) -> float:
    """Seconds of the tasks that are in none of their turns, for each turn."""
    turns = [turn for task in tasks for turn in task.turns]
    inside = sum(turn.ttft_s + turn.generation_s + turn.tools_s for turn in turns)
    return max(sum(task.task_s for task in tasks) - inside, 0.0) / max(len(turns), 1)


def _equations(turns: Sequence[Turn], prefill: Array) -> tuple[Array, Array, Array, Array]:
    """What the times to the first token and the generations of one block consist of, and how long they took. Columns:
    a step (fixed, per request, per token of context), a prefill (fixed, per token, per pair), tokenising, a turn."""
    table = np.array([_numbers(turn) for turn in turns])
    sent, first, last, prompt, output, new, pairs, steps = table.T
    work = np.stack([np.ones_like(new), new, pairs], axis=1)
    others = ~np.eye(len(turns), dtype=bool)
    # A request waits for the prefills that end before its own; those that end before its last token stop its decoding.
    earlier = others & (first[None] > sent[:, None]) & (first[None] <= first[:, None])
    left = np.clip((first[None] - sent[:, None]) / np.maximum(work @ prefill, 1e-9)[None], 0.0, 1.0)
    before = (earlier * left) @ work
    during = (others & (first[None] > first[:, None]) & (first[None] <= last[:, None])) @ work
    overlap = np.clip(np.minimum(last[:, None], last[None]) - np.maximum(first[:, None], first[None]), 0.0, None)
    share = np.where(others, overlap / np.maximum(last - first, 1e-9)[:, None], 1.0)
    zero, one = np.zeros_like(new), np.ones_like(new)
    # One that comes while others decode waits for half a step.
    there = others & (first[None] < sent[:, None]) & (last[None] > sent[:, None])
    half = 0.5 * np.column_stack([there.any(axis=1), there.sum(axis=1), there @ (prompt + output / 2)])
    ttft = np.column_stack([half, work + before, prompt, one])
    contexts = share @ (prompt + output / 2)
    decode = np.column_stack([steps, steps * share.sum(axis=1), steps * contexts, during, zero, zero])
    return ttft, first - sent, decode, last - first


def _unbiased(found: Array, first: Array, first_s: Array, decode: Array, decode_s: Array) -> Array:
    """The same, with steps and what a turn takes besides so that the sums of all turns are met: what a machine does
    between is in no equation, and in every run. A turn that took far longer than its like was held up by something
    else, and is cut short."""
    result = found.copy()
    own, others = decode[:, :3] @ found[:3], decode[:, 3:] @ found[3:]
    if own.sum() > 0:
        result[:3] *= max(float((np.minimum(decode_s, OUTLIER * (own + others)) - others).sum() / own.sum()), 0.1)
    expected = first @ result
    result[7] = max(result[7] + float((np.minimum(first_s, OUTLIER * expected) - expected).mean()), 0.0)
    return result


def _numbers(turn: Turn) -> list[float]:
    first = turn.sent_at + turn.ttft_s
    new = turn.prompt - turn.cached
    pairs = new * (turn.cached + new / 2)
    return [turn.sent_at, first, first + turn.generation_s, turn.prompt, turn.output, new, pairs, turn.steps]


def _vector(known: Measured) -> Array:
    step, prefill = known.step, known.prefill
    values = [step.fixed, step.request, step.context, prefill.fixed, prefill.token, prefill.pair]
    return np.array([*values, known.tokenise, known.turn])


def _error(found: Array, wanted: Array) -> float:
    return float(np.median(np.abs(found - wanted) / np.maximum(wanted, 1e-3)))
