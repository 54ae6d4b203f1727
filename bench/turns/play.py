"""Play a scenario on both sides, and say of each turn where its time went."""

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from bench.turns.client import TIMEOUT_S, Agent, Encode, Turn
from bench.turns.scenario import Pool, Scenario
from bench.turns.server import Server
from bench.turns.stamps import Stamps


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A turn on one side. Times are seconds: until the first token (`ttft_s`), and of this until the prompt is with the
    scheduler, until the model first runs for it, while it is prefilled, and until the client has the token; then until
    the end. In `overhead_s` of `ttft_s` no model ran. `same_ids` says whether the prompt had the same tokens on both
    sides, and `same_greedy`, where it had, whether the model alone would have said the same at every place of the
    answer."""

    scenario: str
    pool: Pool
    run: int
    side: str
    session: int
    turn: int
    prompt: int
    cached: int
    prefilled: int
    ttft_s: float
    total_s: float
    tokenise_s: float
    queue_s: float
    prefill_s: float
    emit_s: float
    decode_s: float
    overhead_s: float
    same_ids: bool
    same_greedy: bool | None


class Player:
    """Both sides, and the tokenizer of the model they serve."""

    def __init__(self, servers: Sequence[Server], encode: Encode, end: int) -> None:
        self._servers = servers
        self._encode, self._end = encode, end

    def play(self, run: int, scenario: Scenario) -> list[Row]:
        """Every turn of a scenario on every side; `run` decides which side begins."""
        for server in self._servers:
            server.flush()
        agents = {
            server.side: [Agent(server.port, script, self._encode, self._end) for script in scenario.scripts]
            for server in self._servers
        }
        order = [server.side for server in self._servers]
        if run % 2:
            order.reverse()
        if scenario.pace == "alternating":
            _alternate([agents[side][0] for side in order], len(scenario.scripts[0].steps))
        else:
            for side in order:
                _together(agents[side], burst=scenario.pace == "burst")
        return self._rows(run, scenario, agents)

    def _rows(self, run: int, scenario: Scenario, agents: dict[str, list[Agent]]) -> list[Row]:
        stamps = {server.side: server.stamps() for server in self._servers}
        rows: list[Row] = []
        for session in range(len(scenario.scripts)):
            for turns in zip(*(agents[side][session].turns for side in agents), strict=True):
                sides = dict(zip(agents, turns, strict=True))
                digests = {stamps[side].sent[turn.rid].digest for side, turn in sides.items()}
                greedy = {tuple(stamps[side].greedy(turn.rid, turn.completion)) for side, turn in sides.items()}
                same = len(digests) == 1
                for side, turn in sides.items():
                    rows.append(
                        Row(
                            scenario=scenario.name,
                            pool=scenario.pool,
                            run=run,
                            side=side,
                            session=session,
                            turn=turn.number,
                            prompt=turn.prompt,
                            cached=turn.cached,
                            prefilled=turn.prompt - turn.cached,
                            same_ids=same,
                            same_greedy=len(greedy) == 1 if same else None,
                            **_split(turn, stamps[side]),
                        )
                    )
        return rows


def _split(turn: Turn, stamps: Stamps) -> dict[str, float]:
    sent, forwards = stamps.sent[turn.rid].time, stamps.forwards[turn.rid]
    begins = forwards[0].start
    prefilled = max(forward.end for forward in forwards if forward.extend and forward.end <= turn.first)
    ttft = turn.first - turn.sent
    return {
        "ttft_s": ttft,
        "total_s": turn.ended - turn.sent,
        "tokenise_s": sent - turn.sent,
        "queue_s": begins - sent,
        "prefill_s": prefilled - begins,
        "emit_s": turn.first - prefilled,
        "decode_s": turn.ended - turn.first,
        "overhead_s": ttft - stamps.busy(turn.sent, turn.first),
    }


def _alternate(agents: Sequence[Agent], turns: int) -> None:
    """Turn by turn on one side and then on the other; the first, in which both prefill all of it, on both at once."""
    with ThreadPoolExecutor(len(agents)) as pool:
        for done in [pool.submit(agent.turn) for agent in agents]:
            done.result()
    for number in range(1, turns):
        for agent in agents if number % 2 else reversed(agents):
            agent.wait()
            agent.turn()


def _together(agents: Sequence[Agent], *, burst: bool) -> None:
    barrier = threading.Barrier(len(agents))

    def session(agent: Agent) -> None:
        try:
            agent.arrive()
            for number in range(agent.length):
                agent.wait()
                if burst and number:
                    barrier.wait(TIMEOUT_S)
                agent.turn()
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(len(agents)) as pool:
        for done in [pool.submit(session, agent) for agent in agents]:
            done.result()
