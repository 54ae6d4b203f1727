"""From the raw probability of a candidate to the real one, on tasks that were not learned from."""

from collections.abc import Iterable

from sglang_paste.mine.messages import steps
from sglang_paste.mine.records import Session
from sglang_paste.predict.levels import Level, Line
from sglang_paste.predict.mined import Mined
from sglang_paste.predict.recall import call_text

MAX_MOMENTS = 6000
_BINS = 15
_PRIOR = 8.0
Outcome = tuple[float, bool]
Outcomes = dict[str, list[Outcome]]


def judge(mined: Mined, items: Iterable[tuple[Session, str]]) -> Outcomes:
    """For each tool the raw probabilities of its candidates, and whether each was the call made."""
    found: Outcomes = {}
    moments = 0
    for session, _ in items:
        live = mined.session()
        for step in steps(session):
            if step.calls:
                moments += 1
                made = call_text(step.calls[0].name, step.calls[0].arguments)
                for candidate in live.candidates(3):
                    right = call_text(candidate.tool, candidate.arguments) == made
                    found.setdefault(candidate.tool, []).append((candidate.probability, right))
            for message in step.messages:
                live.observe(message)
        if moments > MAX_MOMENTS:
            break
    return found


def levels(outcomes: Outcomes) -> dict[str, list[Level]]:
    """A rising line for all tools (under ``), and one for each that was seen enough, drawn to the one of all."""
    every = [outcome for found in outcomes.values() for outcome in found]
    if len(every) < 50:
        return {}
    general = _line(every, None)
    found = {"": general}
    for tool, own in sorted(outcomes.items()):
        if len(own) >= 60:
            found[tool] = _line(own, Line(general))
    return found


def _line(outcomes: list[Outcome], general: Line | None) -> list[Level]:
    ordered = sorted(outcomes)
    size = max(len(ordered) // _BINS, 20)
    points: list[list[float]] = []
    for start in range(0, len(ordered), size):
        part = ordered[start : start + size]
        raw = sum(p for p, _ in part) / len(part)
        prior = raw if general is None else general.at(raw)
        hits = sum(right for _, right in part)
        points.append([raw, (hits + _PRIOR * prior) / (len(part) + _PRIOR), len(part)])
    return [Level(raw, value) for raw, value in _rising(points)]


def _rising(points: list[list[float]]) -> list[tuple[float, float]]:
    """Pool neighbours that fall, so that the line never does."""
    pools: list[list[float]] = []
    for raw, value, weight in points:
        pools.append([raw * weight, value * weight, weight])
        while len(pools) > 1 and pools[-2][1] / pools[-2][2] >= pools[-1][1] / pools[-1][2]:
            last = pools.pop()
            pools[-1] = [a + b for a, b in zip(pools[-1], last, strict=True)]
    return [(raw / weight, value / weight) for raw, value, weight in pools]
