"""Service times from rows, and the model beside the run that they come from."""

import random

import msgspec
import numpy as np
import pytest
from simulated import OPTIONS, SERVICE, a_call, at, guess, one_turn, session, tasks_of

from bench.replay.records import Row, Run, Task
from bench.replay.simulate.calibrate import measure
from bench.replay.simulate.fit import nonnegative
from bench.replay.simulate.play import play
from bench.replay.simulate.validate import by_place, services, sim_error_pct, validate
from bench.replay.simulate.workload import Service, Session


def test_least_squares_finds_what_made_the_numbers() -> None:
    chance = np.random.default_rng(0)
    rows = chance.uniform(0, 1000, (200, 3))
    found = nonnegative(rows, rows @ np.array([0.5, 0.0, 3.0]))
    assert found == pytest.approx([0.5, 0.0, 3.0], abs=1e-6)


def test_what_would_be_negative_is_nothing() -> None:
    rows = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    fixed, slope = nonnegative(rows, np.array([3.0, 2.0, 1.0]))
    assert slope == 0.0
    assert 1.0 < fixed < 3.0


def sessions(count: int) -> list[Session]:
    chance = random.Random(count)
    made = []
    for number in range(count):
        turns, prompt = [], chance.randint(300, 900)
        for place in range(6):
            seconds = chance.choice((0.2, 0.8, 2.0))
            guesses = [guess("turn", seconds)] if chance.random() < 0.5 else []
            uses = (a_call(seconds, *guesses),) if place < 5 else ()
            turns.append(one_turn(prompt, chance.randint(10, 80), uses=uses, fresh=1))
            prompt += turns[-1].output + chance.randint(20, 400)
        made.append(session(f"s{number}", *turns))
    return made


def played(*runs: Run, slower: float = 1.0) -> list[Row]:
    """What the model itself makes of some sessions, as if it were measured; tasks but not turns can be slower."""
    rows: list[Row] = []
    for run in runs:
        for row in play(at(run), [sessions(12)[agent::3] for agent in range(3)], SERVICE, OPTIONS):
            is_slow = isinstance(row, Task) and run != "A"
            rows.append(msgspec.structs.replace(row, task_s=row.task_s * slower) if is_slow else row)
    return rows


def test_service_times_are_those_that_made_the_rows() -> None:
    found = measure([tasks_of(played("A"))])
    assert found.step.seconds(2, 2000) == pytest.approx(SERVICE.decode.seconds(2, 2000), rel=0.05)
    whole = SERVICE.prefill.seconds(600, 400) + SERVICE.turn + 1000 * SERVICE.tokenise
    assert found.prefill.seconds(600, 400) + found.turn + 1000 * found.tokenise == pytest.approx(whole, rel=0.1)
    assert found.generation_error < 0.05


def test_a_turn_is_timed_by_itself_where_a_server_keeps_tokens() -> None:
    rows = played("A", "B", "D")
    before = _services(rows)
    assert before["D"].turn == pytest.approx(before["A"].turn, abs=0.02)
    slower = [
        msgspec.structs.replace(
            row, turns=tuple(msgspec.structs.replace(turn, ttft_s=turn.ttft_s + 0.2) for turn in row.turns)
        )
        if isinstance(row, Task) and row.place.run == "D"
        else row
        for row in rows
    ]
    after = _services(slower)
    assert after["D"].turn - before["D"].turn == pytest.approx(0.2, abs=0.05)
    assert after["F"].turn == after["D"].turn
    assert (after["A"], after["B"]) == (before["A"], before["B"])


def _services(rows: list[Row]) -> dict[Run, Service]:
    return services(by_place(rows), SERVICE.pool)


def test_the_model_agrees_with_its_own_rows_and_not_with_others() -> None:
    checked = validate(played("A", "B"), pool=SERVICE.pool, limits=OPTIONS.limits)
    assert [each.run for each in checked] == ["A", "B"]
    error = sim_error_pct(checked)
    assert error is not None
    assert error < 3
    off = sim_error_pct(validate(played("A", "B", slower=1.3), pool=SERVICE.pool, limits=OPTIONS.limits))
    assert off is not None
    assert off > 15
