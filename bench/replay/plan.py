"""Which blocks are played, in which order, and how fast recorded time passes in them."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import msgspec

from bench.replay.recording import Recording
from bench.replay.records import Place, Run, Setting, Task

FAST, FAST_S = "fast", 0.005
FEW_S = 10.0  # expected of the model: a domain's own tasks count for more than all others' if they have more
FAST_SHARE = 0.5  # of the time of a block whose tools take half of it
LEAST = 3
CONTROLS: tuple[Run, ...] = ("same", "wrong")
# Before anything was measured: seconds of the model for an answer, and for each of its characters.
ANSWER_S, CHARACTER_S = 0.15, 0.002


class Act(msgspec.Struct, frozen=True):
    """A block to play: where its rows belong, and the number of the group of sessions that it plays."""

    place: Place
    group: int


def acts(settings: Sequence[Setting], runs: Sequence[Run], repetitions: int) -> Iterator[Act]:
    """All blocks. Every server plays a session once, and what it learns from it, it learns for other sessions alone;
    controls come last, next to each other, on servers that learn nothing or of which nothing is hoped."""
    main = [run for run in runs if run not in CONTROLS]
    controls = [run for run in CONTROLS if run in runs]
    for number, setting in enumerate(settings):
        order: Sequence[Run] = [run for run in ("A", "F") if run in main] if setting.name == FAST else main
        for repetition in range(repetitions):
            turned = order if repetition % 2 == 0 else order[::-1]
            for run in turned:
                yield Act(Place(setting=setting, run=run, repetition=repetition), number * repetitions + repetition)
    for repetition in range(repetitions):
        for run in controls if repetition % 2 == 0 else controls[::-1]:
            yield Act(Place(setting=settings[0], run=run, repetition=repetition), repetition)


def most_sessions(acts: Sequence[Act], seconds: float, limit: float) -> int:
    """How many sessions a block may have so that all of them end in time, where one takes `seconds` of a block on
    stock; not fewer than one of each of `LEAST` domains."""
    blocks = sum(FAST_SHARE if act.place.setting.name == FAST else 1.0 for act in acts)
    return max(LEAST, int(limit / max(1e-9, blocks * seconds)))


def first_scales(recordings: Sequence[Recording]) -> dict[str, float]:
    """By domain, before anything was measured: half of the time for tools."""
    return {
        domain: sum(map(_model_s, own)) / max(1e-9, _tools_s(own)) for domain, own in _by_domain(recordings).items()
    }


def scales(
    tasks: Sequence[Task], known: Sequence[Recording], recordings: Sequence[Recording], share: float
) -> dict[str, float]:
    """By domain, so that tools take this share of the task time on stock in these recordings, as far as some tasks of
    `known` ones tell: those of the domain, and where they are few, all."""
    found: dict[str, float] = {}
    measured, expected = _model_time(tasks, known)
    slower = measured / expected if expected else 1.0
    for domain, own in _by_domain(recordings).items():
        measured, expected = _model_time([task for task in tasks if task.domain == domain], known)
        model = sum(map(_model_s, own)) * (measured + FEW_S * slower) / (expected + FEW_S)
        found[domain] = share / (1 - share) * model / max(1e-9, _tools_s(own))
    return found


def _model_time(tasks: Sequence[Task], recordings: Sequence[Recording]) -> tuple[float, float]:
    """Seconds of the model in these tasks, and how many were expected of them."""
    names = {task.session for task in tasks}
    measured = sum(task.task_s - task.tools_s for task in tasks)
    return measured, sum(_model_s(each) for each in recordings if each.name in names)


def fast_scales(recordings: Sequence[Recording]) -> dict[str, float]:
    """By domain, so that a call takes 5 ms in the mean."""
    return {
        domain: FAST_S * sum(len(each.calls) for each in own) / max(1e-9, _tools_s(own))
        for domain, own in _by_domain(recordings).items()
    }


def overall(by_domain: dict[str, float], recordings: Sequence[Recording]) -> float:
    """One number for all: scaled seconds through recorded ones."""
    scaled = sum(by_domain[domain] * _tools_s(own) for domain, own in _by_domain(recordings).items())
    return round(scaled / max(1e-9, _tools_s(recordings)), 6)


def groups(recordings: Sequence[Recording], count: int) -> list[list[Recording]]:
    """So many groups, as equal as can be, in order. Raises SystemExit where there are too few sessions."""
    if len(recordings) < count:
        raise SystemExit(
            f"there are {len(recordings)} sessions of the wanted length, with two calls and more of tools that have "
            f"proper names, for {count} blocks; give more sessions, or fewer --repetitions"
        )
    ends = [number * len(recordings) // count for number in range(count + 1)]
    return [list(recordings[begin:end]) for begin, end in pairwise(ends)]


def _by_domain(recordings: Sequence[Recording]) -> dict[str, list[Recording]]:
    return {
        domain: [each for each in recordings if each.domain == domain]
        for domain in dict.fromkeys(each.domain for each in recordings)
    }


def _model_s(each: Recording) -> float:
    return ANSWER_S * len(each.answers) + CHARACTER_S * each.said_chars


def _tools_s(recordings: Sequence[Recording]) -> float:
    return sum(call.seconds for each in recordings for call in each.calls)
