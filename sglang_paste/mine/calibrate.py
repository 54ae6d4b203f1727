"""From the raw probability of a candidate to the real one, on tasks that were not learned from."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from sglang_paste.mine.messages import steps
from sglang_paste.mine.records import Session
from sglang_paste.predict.levels import Level, log_odds
from sglang_paste.predict.mined import Candidate, Mined
from sglang_paste.predict.recall import call_text

MAX_MOMENTS = 500  # of each source
OFFERED = 3
# Of shift, slope and best: how many outcomes weigh as much as the assumption that raw probabilities are real, and that
# a tool is like all others.
_WEIGHTS = np.array([20.0, 40.0, 20.0])
_LEAST_SLOPE = 0.1
_STEPS = 30
Outcome = tuple[float, bool, bool]
"""The raw probability of a candidate, whether it was the likeliest, and whether it was right."""
Outcomes = dict[str, list[Outcome]]


def judge(mined: Mined, items: Iterable[tuple[Session, str]]) -> tuple[Outcomes, Outcomes]:
    """For each tool what became of its candidates, before the model says anything, and when it has said all but its
    calls."""
    silent: Outcomes = {}
    saying: Outcomes = {}
    moments: Counter[str] = Counter()
    for session, _ in items:
        if moments[session.source] >= MAX_MOMENTS:
            continue
        live = mined.session()
        for step in steps(session):
            if step.calls:
                moments[session.source] += 1
                made = call_text(step.calls[0].name, step.calls[0].arguments)
                _count(live.candidates(OFFERED), made, silent)
                if step.turn.content:
                    live.observe_partial(step.turn.content)
                    _count(live.candidates(OFFERED), made, saying)
            for message in step.messages:
                live.observe(message)
    return silent, saying


def _count(candidates: Iterable[Candidate], made: str, outcomes: Outcomes) -> None:
    for place, candidate in enumerate(candidates):
        right = call_text(candidate.tool, candidate.arguments) == made
        outcomes.setdefault(candidate.tool, []).append((candidate.probability, not place, right))


def levels(outcomes: Sequence[Outcomes]) -> dict[str, Level]:
    """A level for each tool, the nearer to that of all (under "") the fewer outcomes there are."""
    of_tool: Outcomes = {}
    for found in outcomes:
        for tool, some in found.items():
            of_tool.setdefault(tool, []).extend(some)
    if not any(of_tool.values()):
        return {}
    every = _level([outcome for _, some in sorted(of_tool.items()) for outcome in some], Level())
    return {"": every} | {tool: _level(some, every) for tool, some in sorted(of_tool.items()) if some}


def _level(outcomes: Sequence[Outcome], prior: Level) -> Level:
    """Platt scaling, drawn to a prior; by Newton's method in bounded steps."""
    inputs = np.array([(1.0, log_odds(raw), float(is_best)) for raw, is_best, _ in outcomes])
    hits = np.array([float(right) for *_, right in outcomes])
    drawn, weight = np.array([prior.shift, prior.slope, prior.best]), _WEIGHTS / 4  # a coin's variance
    found = drawn.copy()
    for _ in range(_STEPS):
        expected = 1.0 / (1.0 + np.exp(-inputs @ found))
        gradient = inputs.T @ (expected - hits) + weight * (found - drawn)
        curvature = (inputs.T * (expected * (1.0 - expected))) @ inputs + np.diag(weight)
        step = np.linalg.solve(curvature, gradient)
        found -= step / max(1.0, float(np.abs(step).max()))
    shift, slope, best = found.tolist()
    return Level(shift, max(slope, _LEAST_SLOPE), best)
