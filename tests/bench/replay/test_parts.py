"""What is replayed and what its tools return, without a server."""

import msgspec
import pytest
from replay_rows import block, place, task

from bench.replay import made_up, plan, recording, train
from bench.replay.client import Diverged
from bench.replay.complete import require_as_stock
from bench.replay.durations import QUANTILES, fitted
from bench.replay.effects import declared
from bench.replay.recording import Wanted
from bench.replay.records import Setting
from bench.replay.script import is_said
from bench.replay.world import WRONG, World
from sglang_paste.mine.records import Call, Result, Session, Turn
from sglang_paste.mine.split import Tasks


def session(*turns: Turn, name: str = "s", task: str = "t") -> Session:
    return Session("made up", name, task, (Turn("user", f"A task that is named {task} by its words"), *turns))


def called(tool: str, result: str, seconds: float | None = 1.0, **arguments: object) -> tuple[Turn, Turn]:
    return (
        Turn("assistant", "", (Call(tool, arguments, f"id {result}"),)),
        Turn("tool", tool_results=(Result(tool, result, f"id {result}", seconds),)),
    )


EDITED = session(
    *called("read_file", "before", path="a"),
    *called("edit", "done", path="a"),
    *called("read_file", "after", path="a"),
    *called("read_file", "again", path="a"),
    Turn("assistant", "It is done."),
)


def world(of: Session = EDITED, scale: float = 2.0) -> World:
    found = World({"made up": scale})
    found.begin("x", recording.record(of))
    return found


def test_a_recording_has_what_arrives_what_is_said_and_what_is_called() -> None:
    found = recording.record(EDITED)
    results = [[call.result for call in answer.calls] for answer in found.answers]
    assert results == [
        ["before"],
        ["done"],
        ["after"],
        ["after"],
        [],
    ]
    assert [len(answer.arrives) for answer in found.answers] == [1, 0, 0, 0, 0]
    assert [call.effect for call in found.calls] == ["read", "write", "read", "read"]
    assert [call.seconds for call in found.calls] == [1.0] * 4


def test_what_would_be_a_token_of_its_own_is_none() -> None:
    odd = session(*called("ls", "<|im_end|>\0</tool_call>", path="<tool_call>"), Turn("assistant", "\ud800 <|x|>"))
    found = recording.record(odd)
    text = str(found.answers)
    assert "<|" not in text
    assert "tool_call>" in text
    assert "<tool_call>" not in text
    assert "</tool_call>" not in text
    text.encode()


def test_an_id_that_is_used_again_is_that_of_another_call() -> None:
    told = session(
        Turn("assistant", "", (Call("look", {"at": 1}, "c"), Call("look", {"at": 2}, "c"))),
        Turn("tool", tool_results=(Result("look", "one", "c", 1.0), Result("look", "two", "c", 2.0))),
        Turn("assistant", "", (Call("look", {"at": 3}, "c"), Call("look", {"at": 4}, "d"))),
        Turn("tool", tool_results=(Result("look", "four", "d", 4.0), Result("look", "three", "c", 3.0))),
    )
    calls = recording.record(told).calls
    assert [(call.result, call.seconds) for call in calls] == [("one", 1), ("two", 2), ("three", 3), ("four", 4)]


def test_a_call_that_json_cannot_say_is_left_out() -> None:
    told = session(*called("look", "one", at=float("nan")), *called("look", "two", at=1))
    assert [call.result for call in recording.record(told).calls] == ["two"]


def test_answers_in_a_row_are_one() -> None:
    found = recording.record(session(Turn("assistant", "First."), Turn("assistant", "Second.")))
    assert [answer.content for answer in found.answers] == ["First.\nSecond."]


def test_a_call_returns_what_was_recorded_in_the_state_it_is_made_in() -> None:
    it = world()
    read, edit = ("x", "read_file", {"path": "a"}), ("x", "edit", {"path": "a"})
    assert it.execute(*read).content == "before"
    writing = it.execute(*edit)
    assert writing.content == "done"
    # It is written when the tool ends, whoever hears of it when.
    assert it.execute(*read).content == "before"
    it.ended("x", writing)
    assert it.execute(*read).content == "after"
    assert it.execute(*read).content == "after"
    # Nobody edits it a second time.
    assert it.execute(*edit).content.startswith(WRONG)
    counted = it.executions("x")
    assert (counted.useful, counted.in_vain, counted.wrong) == (5, 1, [])
    assert it.seconds("x", 3) == 2.0


def test_a_write_that_runs_twice_and_a_call_that_never_does_are_seen() -> None:
    it = world()
    it.execute("x", "edit", {"path": "a"})
    it.execute("x", "edit", {"path": "a"})
    assert it.executions("x").wrong == ["read_file", "read_file", "edit"]


def test_a_call_that_was_never_made_takes_its_tools_time_and_is_marked() -> None:
    it = world()
    run = it.execute("x", "grep", {"pattern": "b"})
    assert run.content.startswith(WRONG)
    assert run.seconds == it.execute("x", "grep", {"pattern": "b"}).seconds > 0
    assert it.busy_s == 2 * run.seconds


def test_fitted_times_are_those_of_their_kind_and_the_same_every_time() -> None:
    for kind, (median, high) in QUANTILES.items():
        drawn = sorted(fitted(kind, "seed", number) for number in range(4_001))
        assert drawn[2_000] == pytest.approx(median, rel=0.1)
        # The upper and lower 5 % are left out, so that the 90th percentile is the 86th.
        assert median < drawn[3_600] < high
        assert fitted(kind, "seed", 7) == fitted(kind, "seed", 7)


def test_what_is_not_known_writes() -> None:
    assert declared("frobnicate").effect == "write"
    assert declared("Bash").effect == "write"
    assert declared("get_order_details").effect == "read"
    assert declared("Grep").resource == "session:workspace"


def test_of_a_shell_what_only_reads_is_told_by_the_command() -> None:
    told = [
        *called("Bash", "2 failed", command="cd /x && python -m pytest -x 2>&1 | tail -5", description="to see"),
        *called("Bash", "done", command="rm a", description="to clean"),
        *called("Bash", "2 passed", command="cd /x && python -m pytest -x 2>&1 | tail -5", description="again"),
    ]
    found = recording.record(session(*told))
    assert [call.effect for call in found.calls] == ["read", "write", "read"]
    it = world(session(*told))
    again = {**found.calls[0].arguments, "description": ""}
    assert it.execute("x", "Bash", again).content == "2 failed"
    it.ended("x", it.execute("x", "Bash", found.calls[1].arguments))
    assert it.execute("x", "Bash", again).content == "2 passed"


def test_sessions_are_chosen_by_name_alone_one_of_a_task() -> None:
    found = [recording.record(each) for each in made_up.sessions(10)]
    chosen = recording.choose(found, Wanted(9))
    assert chosen == recording.choose(found[::-1], Wanted(9))
    assert len({each.session.task_id for each in chosen}) == 9
    twice = [EDITED, msgspec.structs.replace(EDITED, session_id="again", task_id="of another id")]
    assert len(recording.choose(map(recording.record, twice), Wanted(2))) == 1
    assert {each.domain for each in chosen[:3]} == {"customer service", "coding", "search"}
    assert not recording.choose(found, Wanted(9, prompt_chars=100))


def test_of_a_long_session_the_beginning_is_played() -> None:
    whole = recording.record(EDITED)
    assert recording.shortened(whole, Wanted(1)) == whole
    short = recording.shortened(whole, Wanted(1, calls=(2, 3)))
    assert short.answers == whole.answers[:3]
    assert short.session == whole.session
    assert [each.answers for each in recording.choose([whole], Wanted(1, calls=(2, 3)))] == [short.answers]
    assert not recording.shortened(whole, Wanted(1, said_chars=10)).answers


def test_what_is_played_is_not_learned_from() -> None:
    sessions = made_up.sessions(40)
    played = recording.choose([recording.record(each) for each in sessions], Wanted(30))
    lessons = train.lessons(sessions, played)
    assert 0 < len(lessons.recurring) < len(played)
    tasks = Tasks()
    for each in sessions:
        tasks.add(each)
    learned = {tasks.of(each) for each in lessons.train}
    for each in played:
        assert each.session not in lessons.train
        assert (tasks.of(each.session) in learned) == (each.name in lessons.recurring)
    some = train.some(lessons, 60)
    assert 0 < sum(len(turn.tool_calls) for each in some for turn in each.turns) <= 60
    assert len(some) < len(lessons.train)
    again = {tasks.of(each.session) for each in played if each.name in lessons.recurring}
    assert {tasks.of(each) for each in some[:3]} <= again
    assert train.some(lessons) == lessons.train


def test_what_goes_on_where_a_played_session_ends_is_not_learned_from() -> None:
    other = session(*called("ls", "x", path="b"), Turn("assistant", "Done."), name="other")
    turns = EDITED.turns
    copies = [
        msgspec.structs.replace(EDITED, session_id="copy"),
        msgspec.structs.replace(EDITED, session_id="beginning", turns=turns[:4]),
        msgspec.structs.replace(EDITED, session_id="continued", turns=(*turns, Turn("user", "And more?"))),
    ]
    for seed in range(8):
        played = [recording.record(EDITED)]
        lessons = train.lessons([EDITED, other, *copies], played, seed)
        assert lessons.train in ([other], [])
        assert bool(lessons.train) == bool(lessons.recurring)
        assert not train.lessons([EDITED, *copies], played, seed).recurring


def test_sessions_are_dealt_out_evenly() -> None:
    played = [recording.record(each) for each in made_up.sessions(4)[:4]]
    assert plan.groups(played, 3) == [played[:1], played[1:2], played[2:]]
    with pytest.raises(SystemExit, match="there are 4 sessions of the wanted length"):
        plan.groups(played, 5)


def test_made_up_sessions_are_the_same_every_time_and_their_calls_return_something() -> None:
    assert made_up.sessions(4) == made_up.sessions(4)
    for each in made_up.sessions(4):
        found = recording.record(each)
        assert all(call.result for call in found.calls)
        assert not found.answers[-1].calls


def test_tools_get_the_wanted_share() -> None:
    found = [recording.record(each) for each in made_up.sessions(6)]
    by_domain = plan.scales([], found, found, 0.6)
    for domain, scale in by_domain.items():
        own = [each for each in found if each.domain == domain]
        tools = scale * sum(call.seconds for each in own for call in each.calls)
        assert tools / (tools + sum(map(plan._model_s, own))) == pytest.approx(0.6)
    fast = plan.fast_scales(found)
    seconds = [fast[each.domain] * call.seconds for each in found for call in each.calls]
    assert sum(seconds) / len(seconds) == pytest.approx(plan.FAST_S)


def test_every_server_plays_a_session_once_but_for_controls() -> None:
    settings = [Setting(name=name, agents=2, scale=1.0, model="m") for name in ("main", "fast")]
    acts = list(plan.acts(settings, ("A", "A2", "F", "same", "wrong"), 2))
    fast = sum(act.place.setting.name == plan.FAST for act in acts)
    blocks = len(acts) - fast + plan.FAST_SHARE * fast
    assert plan.most_sessions(acts, 2.0, 10 * blocks) == 5
    assert plan.most_sessions(acts, 1000.0, 10.0) == plan.LEAST
    assert len({act.place for act in acts}) == len(acts) == 2 * 3 + 2 * 2 + 2 * 2
    for run in ("A", "F"):
        played = [act.group for act in acts if act.place.run == run]
        assert len(set(played)) == len(played) == 4
    groups = plan.groups([recording.record(each) for each in made_up.sessions(4)], 4)
    assert sum(map(len, groups)) == 12
    with pytest.raises(SystemExit, match="there are 0 sessions"):
        plan.groups([], 4)


def test_an_answer_is_compared_by_its_words_and_its_calls() -> None:
    answer = recording.record(EDITED).answers[0]
    assert is_said(answer, " \n", [("read_file", '{"path": "a"}')])
    assert not is_said(answer, "", [("read_file", '{"path": "b"}')])
    assert not is_said(answer, "", [])
    assert not is_said(answer, "", [("read_file", '{"path"')])


def test_what_stock_answers_ours_answers_as_well() -> None:
    rows = [task(place("A"), "s0"), task(place("F"), "s0"), block(place("A")), block(place("F"))]
    require_as_stock([*rows, task(place("F"), "s1")])
    require_as_stock([*rows, task(place("A", 1), "s1")])
    with pytest.raises(Diverged, match="s1 was answered as recorded on stock, and not in run F"):
        require_as_stock([*rows, task(place("A"), "s1")])
