"""No token of the simulated pool is ever lost or there twice, whatever is switched on."""

import random

import msgspec
import pytest
import simpy
from simulated import OPTIONS, SERVICE, a_call, guess, one_turn, session

from bench.replay.simulate.server import Server
from bench.replay.simulate.workload import FEATURES, Session

POOL = 6_000


def sessions(seed: int) -> list[Session]:
    chance = random.Random(seed)
    made = []
    for number in range(8):
        turns, prompt = [], chance.randint(200, 900)
        for place in range(5):
            seconds = chance.choice((0.1, 1.0, 4.0))
            guesses = [guess("turn", seconds, right=chance.random() < 0.6)]
            tool = chance.choice(("read", "read", "write"))
            uses = [a_call(seconds, *(guesses if tool == "read" else ()), tool=tool)] if place < 4 else []
            turns.append(one_turn(prompt, chance.randint(5, 60), uses=uses, fresh=chance.randint(1, 40)))
            prompt += turns[-1].output + chance.randint(10, 500)
        made.append(session(f"s{number}", *turns, shared=100))
    return made


@pytest.mark.parametrize("run", ["A", "C", "D", "E", "F"])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_free_and_what_is_cached_are_the_pool(run: str, seed: int) -> None:
    env = simpy.Environment()
    service = msgspec.structs.replace(SERVICE, pool=POOL)
    server = Server(env, service, FEATURES[run], OPTIONS)  # type: ignore[index]
    drawn = sessions(seed)
    cache, seen = server.engine.cache, 0
    played: list[str] = []

    def agent(one: Session) -> simpy.events.ProcessGenerator:
        for number in range(len(one.turns)):
            yield env.process(server.turn(one, number))
            yield env.timeout(1.0)
        played.append(one.id)

    for each in drawn:
        env.process(agent(each))
    while env.peek() < float("inf"):
        env.step()
        cached = sum(cache.tokens(each.id) for each in drawn)
        seen = max(seen, cached)
        assert 0 <= cache.free <= POOL - cached
    assert sorted(played) == sorted(each.id for each in drawn)
    assert cache.free + sum(cache.tokens(each.id) for each in drawn) == POOL
    assert seen > POOL / 2
    if run == "F":
        assert server.engine.warm is not None
        assert server.engine.warm.tokens > 0
