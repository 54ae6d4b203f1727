"""A made-up server and made-up sessions for the simulator."""

from collections.abc import Sequence

import msgspec

from bench.replay.records import Block, Place, Row, Run, Setting, Task
from bench.replay.simulate.server import Options
from bench.replay.simulate.workload import Guess, Prefill, Service, Session, Step, Turn, Use
from sglang_paste.config import Limits, Policy

SERVICE = Service(
    prefill=Prefill(fixed=0.01, token=1e-3, pair=1e-7),
    decode=Step(fixed=0.02, request=0.002, context=1e-6),
    verify=Step(fixed=0.03, request=0.004, context=1e-6),
    tokenise=1e-5,
    turn=0.005,
    call=0.003,
    claim=0.001,
    pause=0.0,
    pool=100_000,
    chunk=512,
    running=32,
)
STATE = ("session:state",)
READ = Policy(effect="read", reads=STATE, observes="local", speculate=True, concurrency=64)
WRITE = Policy(effect="write", writes=STATE, observes="local")
OPTIONS = Options(policies={"read": READ, "write": WRITE}, limits=Limits(speculative=64, per_tool=64, per_session=8))


def at(run: Run) -> Place:
    return Place(setting=Setting(name="main", agents=1, scale=1.0, model="made up"), run=run, repetition=0)


def tasks_of(rows: Sequence[Row]) -> list[Task]:
    return [row for row in rows if isinstance(row, Task)]


def block_of(rows: Sequence[Row]) -> Block:
    return next(row for row in rows if isinstance(row, Block))


def session(name: str, *turns: Turn, **other: object) -> Session:
    return msgspec.convert({"id": name, "domain": "made up", "turns": turns, **other}, Session)


def one_turn(prompt: int, output: int, **other: object) -> Turn:
    return msgspec.convert({"prompt": prompt, "output": output, "steps": output - 1, **other}, Turn)


def a_call(seconds: float, *guesses: Guess, tool: str = "read") -> Use:
    effect = "write" if tool == "write" else "read"
    return msgspec.convert({"tool": tool, "seconds": seconds, "effect": effect, "guesses": guesses}, Use)


def guess(moment: str, seconds: float, *, right: bool = True, probability: float = 0.9) -> Guess:
    return msgspec.convert({"moment": moment, "probability": probability, "right": right, "seconds": seconds}, Guess)
