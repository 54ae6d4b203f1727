"""The simulator: its engine against a plain loop of single steps, its cache, and what early runs come to."""

import random
from collections.abc import Sequence

import msgspec
import pytest
from simulated import OPTIONS, SERVICE, a_call, at, block_of, guess, one_turn, session, tasks_of

from bench.replay.records import Run
from bench.replay.simulate.cache import Cache
from bench.replay.simulate.play import Fleet, play
from bench.replay.simulate.workload import Service, Session, Step, Use


def test_a_single_turn_takes_what_its_parts_take() -> None:
    rows = play(at("A"), [[session("s", one_turn(700, 40))]], SERVICE, OPTIONS)
    (turn,) = tasks_of(rows)[0].turns
    chunks = SERVICE.prefill.seconds(512, 0) + SERVICE.prefill.seconds(188, 512)
    assert turn.ttft_s == pytest.approx(700 * SERVICE.tokenise + chunks + SERVICE.turn)
    steps = sum(SERVICE.decode.seconds(1, 701 + made) for made in range(39))
    assert turn.generation_s == pytest.approx(steps)


def in_single_steps(arrivals: Sequence[tuple[float, int, int]], service: Service) -> list[float]:
    """When each of (arrives, prompt, output) ends, by a loop that takes every step by itself."""
    now, waiting, running = 0.0, sorted((at, number) for number, (at, _, _) in enumerate(arrivals)), {}
    left = {number: prompt for number, (_, prompt, _) in enumerate(arrivals)}
    ends = [0.0] * len(arrivals)
    while waiting or running:
        here = [number for at, number in waiting if at <= now + 1e-12]
        if here:
            room, seconds, finished = service.chunk, service.prefill.fixed, []
            for number in here:
                part = min(left[number], room)
                if not part:
                    break
                prompt = arrivals[number][1]
                seconds += service.prefill.seconds(part, prompt - left[number]) - service.prefill.fixed
                room, left[number] = room - part, left[number] - part
                if not left[number]:
                    finished.append(number)
            now += seconds
            running |= dict.fromkeys(finished, 1)
            waiting = [each for each in waiting if each[1] not in finished]
        elif running:
            context = sum(arrivals[number][1] + made for number, made in running.items())
            now += service.decode.seconds(len(running), context)
            running = {number: made + 1 for number, made in running.items()}
        else:
            now = waiting[0][0]
        for number in [number for number, made in running.items() if made >= arrivals[number][2]]:
            ends[number] = now
            del running[number]
    return ends


@pytest.mark.parametrize("seed", range(6))
def test_many_steps_at_once_are_the_same_as_one_by_one(seed: int) -> None:
    chance = random.Random(seed)
    service = msgspec.structs.replace(SERVICE, tokenise=0.0, turn=0.0)
    arrivals = [(chance.uniform(0, 3), chance.randint(20, 900), chance.randint(2, 60)) for _ in range(8)]
    queues = [[session(f"s{n}", one_turn(prompt, output))] for n, (_, prompt, output) in enumerate(arrivals)]
    # A session comes when its agent's hop is over.
    ends = {}
    for number, (begin, _, _) in enumerate(arrivals):
        queues[number][0] = msgspec.structs.replace(queues[number][0], begins=begin)
    for task in tasks_of(play(at("A"), queues, service, OPTIONS)):
        (turn,) = task.turns
        ends[task.session] = turn.sent_at + turn.ttft_s + turn.generation_s
    wanted = in_single_steps(arrivals, service)
    assert [ends[f"s{n}"] for n in range(8)] == pytest.approx(wanted, rel=1e-9)
    slower = msgspec.structs.replace(service, decode=Step(fixed=0.021, request=0.002, context=1e-6))
    assert [ends[f"s{n}"] for n in range(8)] != pytest.approx(in_single_steps(arrivals, slower), rel=1e-9)


def two_turns(*uses: Use) -> Session:
    return session("s", one_turn(400, 60), one_turn(600, 60, uses=uses), one_turn(700, 5))


def test_what_is_foreseen_is_there_when_it_is_asked_for() -> None:
    foreseen = two_turns(a_call(0.5, guess("turn", 0.5)))
    stock, early = (tasks_of(play(at(run), [[foreseen]], SERVICE, OPTIONS))[0] for run in ("A", "B"))
    assert [call.outcome for call in stock.calls + early.calls] == ["run", "reused"]
    assert stock.turns[1].tools_s == pytest.approx(SERVICE.call + 0.5)
    assert early.turns[1].tools_s == pytest.approx(SERVICE.claim)
    assert early.task_s < stock.task_s


@pytest.mark.parametrize(("tool", "waited"), [("read", 2.0), ("write", 3.0)])
def test_calls_of_a_turn_run_at_once_but_in_order_where_one_writes(tool: str, waited: float) -> None:
    (task,) = tasks_of(play(at("A"), [[two_turns(a_call(2.0), a_call(1.0, tool=tool))]], SERVICE, OPTIONS))
    calls = len(task.calls) if tool == "write" else 1
    assert task.turns[1].tools_s == pytest.approx(waited + calls * SERVICE.call)


def test_the_first_call_can_be_foreseen_from_the_request_alone() -> None:
    opening = session("s", one_turn(400, 60, uses=(a_call(0.5, guess("turn", 0.5)),)), one_turn(500, 5))
    task = tasks_of(play(at("B"), [[opening]], SERVICE, OPTIONS))[0]
    assert [call.outcome for call in task.calls] == ["reused"]


def test_a_call_that_takes_longer_than_its_turn_is_joined() -> None:
    foreseen = two_turns(a_call(30.0, guess("turn", 30.0)))
    stock, early = (tasks_of(play(at(run), [[foreseen]], SERVICE, OPTIONS))[0] for run in ("A", "B"))
    assert early.calls[0].outcome == "joined"
    turn = early.turns[1]
    assert stock.task_s - early.task_s == pytest.approx(turn.ttft_s + turn.generation_s, abs=0.01)


def test_a_wrong_guess_is_wasted_and_helps_nobody() -> None:
    wrong = two_turns(a_call(0.5, guess("turn", 0.5, right=False)))
    rows = play(at("B"), [[wrong]], SERVICE, OPTIONS)
    stock = tasks_of(play(at("A"), [[wrong]], SERVICE, OPTIONS))[0]
    assert [each.end for each in block_of(rows).early] == ["ready"]
    assert block_of(rows).tools_wasted_s == pytest.approx(0.5, abs=0.01)
    assert tasks_of(rows)[0].task_s == pytest.approx(stock.task_s)


def test_a_write_throws_away_what_read_before_it() -> None:
    both = two_turns(a_call(5.0, guess("turn", 0.1)), a_call(0.05, tool="write"))
    task = tasks_of(play(at("B"), [[both]], SERVICE, OPTIONS))[0]
    assert [call.outcome for call in task.calls] == ["reused", "run"]
    squashed = session(
        "s",
        one_turn(400, 60),
        one_turn(600, 60, uses=(a_call(0.05, tool="write"),)),
        one_turn(700, 60, uses=(a_call(1.0, guess("ahead", 1.0)),)),
    )
    first = msgspec.structs.replace(
        squashed.turns[1], uses=(*squashed.turns[1].uses, a_call(0.01, guess("turn", 0.01)))
    )
    rows = play(
        at("B"),
        [[msgspec.structs.replace(squashed, turns=(squashed.turns[0], first, squashed.turns[2]))]],
        SERVICE,
        OPTIONS,
    )
    assert "squashed" in {each.end for each in block_of(rows).early}


def test_what_ran_early_leads_to_what_comes_next() -> None:
    chained = session(
        "s",
        one_turn(400, 60),
        one_turn(600, 60, uses=(a_call(0.1, guess("turn", 0.1)),)),
        one_turn(700, 5, uses=(a_call(2.0, guess("ahead", 2.0)),)),
    )
    later = msgspec.structs.replace(
        chained, turns=(*chained.turns[:2], one_turn(700, 5, uses=(a_call(2.0, guess("turn", 2.0)),)))
    )
    ahead, turn = (tasks_of(play(at("B"), [[each]], SERVICE, OPTIONS))[0].task_s for each in (chained, later))
    assert ahead < turn - 0.5


def test_the_least_recently_used_goes_first_and_nothing_gets_lost() -> None:
    cache = Cache(100, retains=False)
    for name in ("a", "b", "c"):
        assert cache.take(30, 0.0)
        cache.give(name, f"{name}/0", 20, 30, 0.0)
    cache.path("a")
    assert cache.take(40, 1.0)
    assert [cache.tokens(name) for name in ("a", "b", "c")] == [30, 0, 30]
    assert cache.free + 60 + 40 == 100
    cache.path("c").users = 1
    assert not cache.take(31, 2.0)
    assert cache.tokens("a") == 30


def test_retention_spares_who_is_expected_back() -> None:
    """Those that run a tool come back soon; those that said their last word may never."""

    def kept(run: Run) -> tuple[int, int]:
        talk = [session(f"idle{n}", one_turn(900, 20)) for n in range(5)]
        work = session("work", one_turn(900, 20, uses=(a_call(12.0),)), one_turn(940, 20))
        service = msgspec.structs.replace(SERVICE, pool=4000)
        others = [[msgspec.structs.replace(each, begins=2.5 + 2.0 * n)] for n, each in enumerate(talk)]
        found = {task.session: task for task in tasks_of(play(at(run), [[work], *others], service, OPTIONS))}
        return found["work"].turns[1].cached, found["work"].turns[1].prompt

    assert kept("A")[0] == 0
    cached, prompt = kept("D")
    assert cached >= prompt - 25


def test_a_router_that_knows_sessions_keeps_their_cache() -> None:
    sizes = [[10 + 7 * (agent + 1) * n % 40 for n in range(6)] for agent in range(12)]
    turns = [[one_turn(300 + 100 * n, output) for n, output in enumerate(each)] for each in sizes]
    queues = [[session(f"s{agent}", *each)] for agent, each in enumerate(turns)]

    def cached(routing: str) -> float:
        fleet = msgspec.convert({"servers": 4, "routing": routing}, Fleet)
        played = [turn for task in tasks_of(play(at("A"), queues, SERVICE, OPTIONS, fleet)) for turn in task.turns]
        return sum(turn.cached for turn in played) / sum(turn.prompt for turn in played)

    assert cached("affine") > 0.6
    assert cached("least loaded") < cached("affine")


def test_a_prompt_that_can_never_fit_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="a turn of big takes 200010 tokens and the pool has 100000"):
        play(at("A"), [[session("big", one_turn(200_000, 10))]], SERVICE, OPTIONS)
