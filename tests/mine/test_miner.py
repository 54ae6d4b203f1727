import random
from collections.abc import Sequence

import pytest

from sglang_paste.mine.learn import Miner, parted
from sglang_paste.mine.records import Call, Result, Session, Turn
from sglang_paste.predict.mined import Mined, MinedSession
from sglang_paste.predict.patterns import Patterns

SECRET = "sk-live51H8xQ2eZvKYlo2CnP0aTf"


def shop(number: int, tenant: str = "", greeting: str = "Hello, I am") -> Session:
    """A person says who they are, the account is looked up, then its orders one after the other."""
    draw = random.Random(number)
    user = f"user_{draw.randrange(10**6):06}"
    orders = [f"#W{draw.randrange(10**6):06}" for _ in range(3)]
    turns = [
        Turn("user", f"{greeting} {user} and something is wrong with my orders, number {number}."),
        Turn("assistant", "", (Call("get_user", {"user_id": user}),)),
        Turn(
            "tool",
            "",
            (),
            (
                Result(
                    "get_user",
                    f'{{"name": "X", "orders": ["{orders[0]}", "{orders[1]}", "{orders[2]}"]}}',
                    duration_s=0.25,
                ),
            ),
        ),
    ]
    for order in orders:
        turns.append(Turn("assistant", "", (Call("get_order", {"order_id": order, "region": "eu", "key": SECRET}),)))
        turns.append(Turn("tool", "", (), (Result("get_order", f'{{"order_id": "{order}", "status": "late"}}'),)))
    return Session("shop", f"s{number}", f"t{number}", tuple(turns), tenant)


def mined(sessions: list[Session], k: int = 5, processes: int = 1) -> Patterns:
    miner = Miner(k, processes)
    for session in sessions:
        miner.add(session)
    return miner.finish()


@pytest.fixture(scope="module")
def patterns() -> Patterns:
    return mined([shop(number) for number in range(40)])


def begun(patterns: Patterns, inert: Sequence[str] = ()) -> MinedSession:
    session = Mined(patterns).session(inert=inert)
    session.observe(
        {"role": "user", "content": "Hello, I am user_777777 and something is wrong with my orders, number 9."}
    )
    return session


def call(session: MinedSession, tool: str, arguments: dict[str, str], result: str) -> None:
    function = {"name": tool, "arguments": arguments}
    session.observe({"role": "assistant", "content": "", "tool_calls": [{"id": "1", "function": function}]})
    session.observe({"role": "tool", "tool_call_id": "1", "content": result})


def test_names_the_call_of_a_task_never_seen(patterns: Patterns) -> None:
    session = begun(patterns)
    best = session.candidates(1)[0]
    assert (best.tool, best.arguments) == ("get_user", {"user_id": "user_777777"})
    assert best.probability > 0.5
    assert best.run_time.p50 == pytest.approx(0.25)


def test_goes_through_a_list_in_order(patterns: Patterns) -> None:
    session = begun(patterns)
    call(session, "get_user", {"user_id": "user_777777"}, '{"name": "Y", "orders": ["#W111111", "#W222222"]}')
    assert session.candidates(1, "get_order")[0].arguments["order_id"] == "#W111111"
    call(session, "get_order", {"order_id": "#W111111"}, '{"order_id": "#W111111", "status": "late"}')
    assert session.candidates(1, "get_order")[0].arguments["order_id"] == "#W222222"


def test_conditions_on_arguments_that_are_known(patterns: Patterns) -> None:
    session = begun(patterns)
    call(session, "get_user", {"user_id": "user_777777"}, '{"name": "Y", "orders": ["#W111111"]}')
    found = session.candidates(3, "get_order", {"order_id": "#W999999"})
    assert found
    assert all(candidate.arguments["order_id"] == "#W999999" for candidate in found)


def test_inert_arguments_are_left_out(patterns: Patterns) -> None:
    session = Mined(patterns).session(inert={"get_order.region", "key"})
    session.observe({"role": "user", "content": "Order #W123456 please"})
    assert all(set(found.arguments) == {"order_id"} for found in session.candidates(5, "get_order"))


def test_only_offered_tools(patterns: Patterns) -> None:
    for tools in (["get_order"], [{"type": "function", "function": {"name": "get_order"}}]):
        session = Mined(patterns).session(tools=tools)
        session.observe({"role": "user", "content": "Hello, I am user_777777"})
        assert set(session.tools()) == {"get_order"}
        assert {found.tool for found in session.candidates(5)} <= {"get_order"}


def test_what_may_follow_comes_along(patterns: Patterns) -> None:
    session = begun(patterns, inert=("key",))
    call(session, "get_user", {"user_id": "user_777777"}, '{"name": "Y", "orders": ["#W111111", "#W222222"]}')
    (best,) = session.candidates(1, ahead=1)
    assert best.arguments["order_id"] == "#W111111"
    assert [following.arguments["order_id"] for following in best.then] == ["#W222222"]


def chatty(number: int) -> Session:
    """The model picks one of three files that a person named, and says so before it reads it or counts its lines."""
    draw = random.Random(number)
    files = [f"src/{draw.randrange(10**6):06}.py" for _ in range(3)]
    chosen, tool = draw.choice(files), draw.choice(["read", "count"])
    verb = {"read": "Let me open", "count": "How many lines has"}[tool]
    turns = (
        Turn("user", f"Look at {files[0]}, {files[1]} and {files[2]}."),
        Turn("assistant", f"{verb} {chosen}", (Call(tool, {"path": chosen}),)),
        Turn("tool", tool_results=(Result(tool, "x"),)),
    )
    return Session("chat", f"s{number}", f"t{number}", turns)


def test_what_the_model_is_saying_names_its_call() -> None:
    patterns = mined([chatty(number) for number in range(150)])
    session = Mined(patterns).session()
    session.observe({"role": "user", "content": "Look at src/a1.py, src/b2.py and src/c3.py."})
    silent = session.candidates(5)
    assert silent[0].probability < 0.5
    for text, tool, path in (("Let me open src/c3.py", "read", "c3"), ("How many lines has src/b2.py", "count", "b2")):
        session.observe_partial(text[:9])
        session.observe_partial(text)
        best, *_ = session.candidates(5)
        assert (best.tool, best.arguments) == (tool, {"path": f"src/{path}.py"})
        assert best.probability > 0.7
    session.observe_partial("")
    assert session.candidates(5) == silent


def test_a_message_takes_the_place_of_what_was_streamed_of_it(patterns: Patterns) -> None:
    session, other = begun(patterns), begun(patterns)
    session.observe_partial("I look up user_123123")
    for each in (session, other):
        each.observe({"role": "assistant", "content": "I look up user_123123"})
    assert session.candidates(5) == other.candidates(5)
    assert "user_123123" in session.state.texts["said"]


def test_a_secret_is_in_no_pattern(patterns: Patterns) -> None:
    import msgspec

    assert SECRET.encode() not in msgspec.msgpack.encode(patterns)


@pytest.mark.parametrize(("tasks", "kept"), [(4, False), (5, True)])
def test_a_constant_is_kept_from_k_tasks_on(tasks: int, kept: bool) -> None:
    found = mined([shop(number) for number in range(tasks)])
    regions = [argument for argument in found.arguments if argument.name == "region"]
    assert all((("eu", "s") in argument.constants) is kept for argument in regions)
    assert regions


def test_sessions_of_one_task_count_once() -> None:
    same = [Session("shop", f"s{n}", "one", shop(n).turns) for n in range(9)]
    assert all(not argument.constants for argument in mined(same).arguments)


def test_order_makes_no_difference() -> None:
    sessions = [shop(number) for number in range(12)]
    assert mined(sessions) == mined(sessions[::-1])


def test_the_number_of_processes_makes_no_difference(patterns: Patterns) -> None:
    assert mined([shop(number) for number in range(40)], processes=3) == patterns


def test_a_tenant_recalls_its_own_calls_alone() -> None:
    sessions = [shop(number % 4, "acme" if number % 4 else "other") for number in range(4)]
    sessions += [Session(s.source, f"{s.session_id}b", s.task_id, s.turns, s.tenant) for s in sessions]
    found = Mined(mined(sessions))
    said = sessions[1].turns[0].content
    made = sessions[1].turns[1].tool_calls[0].arguments
    for tenant, known in (("acme", True), ("other", False)):
        session = found.session(tenant=tenant)
        session.observe({"role": "user", "content": said})
        assert session._recaller.memory.knows(session._recaller.sights(session.state)[0][1]) is known
    assert made


def test_nothing_in_nothing_out() -> None:
    session = Mined(mined([])).session()
    session.observe({"role": "user", "content": "Hello"})
    assert session.candidates() == []
    assert session.tools() == {}


def test_parts_have_as_many_tasks_of_each_source() -> None:
    tasks = {f"t{number}": "rare" if number % 10 == 0 else "shop" for number in range(80)}
    parts = parted(tasks, 4)
    assert sorted(task for part in parts for task in part) == sorted(tasks)
    for source, count in (("rare", 2), ("shop", 18)):
        assert [sum(tasks[task] == source for task in part) for part in parts] == [count] * 4
    assert parted(dict(reversed(tasks.items())), 4) == parts


def linted(number: int) -> Session:
    """A file is named; a command that no other task has checks it, and then the next one."""
    draw = random.Random(number)
    files = [f"src/{draw.randrange(10**6)}/mod.py" for _ in range(4)]
    name = f"check{number}"
    turns = [Turn("user", f"Please check {' and '.join(files)} with our own linter, number {number}.")]
    for file in files:
        turns.append(Turn("assistant", "", (Call("run", {"command": f"{name} --strict {file} -v"}),)))
        turns.append(Turn("tool", "", (), (Result("run", "fine"),)))
    return Session("lint", f"s{number}", f"t{number}", tuple(turns))


def test_a_command_is_repeated_with_another_path() -> None:
    session = Mined(mined([linted(number) for number in range(40)])).session()
    *before, made, _ = linted(99).turns
    for turn in before:
        calls = [{"id": "1", "function": {"name": call.name, "arguments": call.arguments}} for call in turn.tool_calls]
        content = turn.tool_results[0].content if turn.tool_results else turn.content
        session.observe({"role": turn.role, "content": content, "tool_calls": calls})
    (best,) = session.candidates(1)
    assert best.arguments == made.tool_calls[0].arguments
    assert best.probability > 0.3


def test_the_constants_of_most_tasks_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sglang_paste.mine.survey.MAX_CONSTANTS", 1)
    sessions = [shop(number) for number in range(12)]
    rare = [Session("shop", f"r{n}", f"r{n}", _in(shop(n).turns, "aa")) for n in range(100, 106)]
    (region,) = [a for a in mined(sessions + rare).arguments if a.name == "region"]
    assert region.constants == [("eu", "s")]


def _in(turns: tuple[Turn, ...], region: str) -> tuple[Turn, ...]:
    def moved(call: Call) -> Call:
        return Call(call.name, {name: region if name == "region" else value for name, value in call.arguments.items()})

    return tuple(
        Turn(turn.role, turn.content, tuple(moved(call) for call in turn.tool_calls), turn.tool_results)
        for turn in turns
    )
