"""Rows of a replay that nobody played."""

from bench.replay.records import Block, Call, Early, Outcome, Place, Row, Run, Setting, Task, Turn

MAIN = Setting(name="main", agents=2, scale=0.1, model="tiny", tool_share=0.45)


def place(run: Run, repetition: int = 0, setting: Setting = MAIN) -> Place:
    return Place(setting=setting, run=run, repetition=repetition)


def turn(outcome: Outcome = "run", latency_s: float = 1.0, **changes: object) -> Turn:
    """A turn with one call, of 3 s less what was gained."""
    call = Call(tool="search", effect="read", outcome=outcome, latency_s=latency_s, duration_s=1.0)
    fields = {
        "sent_at": 0.0,
        "ttft_s": 0.5,
        "generation_s": 1.5,
        "tools_s": latency_s,
        "prompt": 1_000,
        "cached": 900,
        "output": 41,
        "steps": 40,
        "calls": (call,),
    }
    return Turn(**{**fields, **changes})  # type: ignore[arg-type]


def task(where: Place, session: str = "s0", *turns: Turn, **changes: object) -> Task:
    """A session of these turns (one plain turn where none is given)."""
    played = turns or (turn(),)
    fields = {
        "place": where,
        "agent": 0,
        "session": session,
        "source": "made up",
        "domain": "customer service",
        "recurring": False,
        "began_at": 0.0,
        "task_s": sum(each.ttft_s + each.generation_s + each.tools_s for each in played),
        "executions": sum(len(each.calls) for each in played),
        "early": 0,
        "turns": played,
    }
    return Task(**{**fields, **changes})  # type: ignore[arg-type]


def block(where: Place, **changes: object) -> Block:
    fields = {
        "place": where,
        "wall_s": 10.0,
        "engine_busy_s": 6.0,
        "tools_busy_s": 4.0,
        "tools_wasted_s": 0.0,
        "peak_bytes": 1_000_000_000,
        "forwards": {"extend": 4, "decode": 160},
    }
    return Block(**{**fields, **changes})  # type: ignore[arg-type]


def example() -> list[Row]:
    """Stock and everything, two repetitions of three sessions, in which a third of the calls is reused or joined."""
    rows: list[Row] = []
    for repetition in range(2):
        for run, outcomes in (("A", ("run", "run", "run")), ("F", ("reused", "joined", "run"))):
            where = place(run, repetition)  # type: ignore[arg-type]
            for number, outcome in enumerate(outcomes):
                latency = {"reused": 0.01, "joined": 0.4}.get(outcome, 1.0)
                played = [turn(outcome, latency), turn(), turn(calls=(), tools_s=0.0)]  # type: ignore[arg-type]
                domain = ("customer service", "research", "coding")[number]
                rows.append(task(where, f"s{number}", *played, agent=number % 2, domain=domain, recurring=number == 0))
            early = (
                []
                if run == "A"
                else [
                    Early(tool="search", probability=0.8, end="claimed", run_s=1.0),
                    Early(tool="search", probability=0.6, end="claimed", run_s=1.0),
                    Early(tool="search", probability=0.3, end="squashed", run_s=0.7),
                ]
            )
            rows.append(block(where, early=tuple(early), tools_wasted_s=0.7 * bool(early)))
    return rows
