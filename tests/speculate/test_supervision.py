"""When the side process is started, killed and given up on."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from sglang_paste.speculate.supervisor import REFUSED, Action, Patience, Supervision

PATIENCE = Patience(first_pause=0.5, longest_pause=8.0, sound=60.0, starting=20.0, silent=5.0)


@dataclass(frozen=True)
class Life:
    """What a process does once it runs: so many heartbeats, seconds apart, then an end with this code; -9 is a hang."""

    beats: int
    interval: float
    code: int


LIVES = st.lists(
    st.builds(
        Life,
        beats=st.integers(0, 40),
        interval=st.floats(0.1, 4.9),
        code=st.sampled_from([0, 1, REFUSED, -11, -9]),
    ),
    min_size=1,
    max_size=8,
)


def check(make: Callable[[], Supervision], lives: list[Life]) -> None:
    supervision = make()
    now, ended, failures = 100.0, None, 0
    for number, life in enumerate(lives):
        now = _await_start(supervision, now, ended, failures)
        supervision.started(now)
        started = now
        assert supervision.decide(now) is Action.WAIT
        for _ in range(life.beats):
            now += life.interval
            assert supervision.decide(now) is Action.WAIT, "a process that talks was killed"
            supervision.heard(now)
        if life.code == -9:
            now = _await_kill(supervision, now, PATIENCE.silent if life.beats else PATIENCE.starting)
        supervision.ended(life.code, now)
        failures = 1 if now - started >= PATIENCE.sound else failures + 1
        ended = now
        if number == 0 and life.code == REFUSED:
            assert supervision.refused
            assert all(supervision.decide(now + later) is Action.WAIT for later in (0, 10, 10_000))
            return
        assert not supervision.refused


def _await_start(supervision: Supervision, now: float, ended: float | None, failures: int) -> float:
    if ended is None:
        assert supervision.decide(now) is Action.START
        return now
    due = ended + min(PATIENCE.first_pause * 2 ** (failures - 1), PATIENCE.longest_pause)
    assert supervision.decide(due - 0.01) is Action.WAIT, "started before the pause was over"
    assert supervision.decide(due) is Action.START, "not started when the pause was over"
    return due


def _await_kill(supervision: Supervision, now: float, silence: float) -> float:
    assert supervision.decide(now + silence - 0.01) is Action.WAIT, "killed too soon"
    assert supervision.decide(now + silence) is Action.KILL, "a hung process was left alone"
    return now + silence


@settings(deadline=None)
@given(LIVES)
def test_a_process_is_started_paused_and_killed_as_promised(lives: list[Life]) -> None:
    check(lambda: Supervision(PATIENCE), lives)


class NoBackOff(Supervision):
    def pause(self) -> float:
        return self.patience.first_pause


class NeverForgives(Supervision):
    def ended(self, code: int, now: float) -> None:
        self._started_at = now
        super().ended(code, now)


class Deaf(Supervision):
    def heard(self, now: float) -> None:
        pass


class RefusesLate(Supervision):
    def ended(self, code: int, now: float) -> None:
        super().ended(code, now)
        self.refused = code == REFUSED


class Stubborn(Supervision):
    def ended(self, code: int, now: float) -> None:
        super().ended(code, now)
        self.refused = False


@pytest.mark.parametrize("broken", [NoBackOff, NeverForgives, Deaf, RefusesLate, Stubborn])
def test_the_property_catches_a_broken_supervision(broken: type[Supervision]) -> None:
    @settings(phases=[Phase.generate], database=None, derandomize=True)
    @given(LIVES)
    def fails(lives: list[Life]) -> None:
        check(lambda: broken(PATIENCE), lives)

    with pytest.raises(AssertionError):
        fails()


def test_the_pause_does_not_overflow() -> None:
    supervision = Supervision(PATIENCE)
    for now in range(2000):
        supervision.started(now)
        supervision.ended(1, now)
    assert supervision.pause() == PATIENCE.longest_pause
