"""What any predictor must beat."""

import json

from recorded import lookups

from sglang_paste.mine.baseline import BySource, Copying, Frequent
from sglang_paste.mine.messages import steps
from sglang_paste.mine.records import Call, Result, Session, Turn


def learned(kind: type[Copying] | type[Frequent], *sessions: Session) -> Copying | Frequent:
    baseline = kind()
    for session in sessions:
        baseline.add(session)
    baseline.finish()
    return baseline


def test_the_most_frequent_call_is_offered_whatever_happens() -> None:
    twice, once = (Session("s", name, name, (Turn("assistant", "", (Call("f", {"x": name}),)),)) for name in "ab")
    session = learned(Frequent, twice, twice, once).session()
    session.observe({"role": "user", "content": "go"})
    assert [(guess.tool, guess.arguments) for guess in session.candidates(5)] == [("f", {"x": "a"}), ("f", {"x": "b"})]
    assert session.candidates(1, tool="f")[0].probability == 2 / 3
    assert session.candidates(1, tool="g") == []
    assert session.tools() == {"f": 1.0}


def test_bigrams_and_copies_follow_a_chain_of_lookups() -> None:
    baseline = learned(Copying, *(lookups("shop", number) for number in range(5)))
    session = baseline.session()
    hits = []
    for step in steps(lookups("shop", 77)):
        if step.calls:
            guess = session.candidates(1)[0]
            hits.append((guess.tool, guess.arguments) == (step.calls[0].name, step.calls[0].arguments))
        for message in step.messages:
            session.observe(message)
    assert hits == [True, True]


def test_copies_come_from_where_they_were_right() -> None:
    def moving(name: str) -> Session:
        found = Result("ls", f"/a/{name}\n/b/{name}", is_error=False)
        calls = (Call("ls", {}), Call("open", {"path": f"/b/{name}", "mode": 1}))
        return Session(
            "s",
            name,
            name,
            (Turn("assistant", "", calls[:1]), Turn("tool", tool_results=(found,)), Turn("assistant", "", calls[1:])),
        )

    session = learned(Copying, *map(moving, ["one", "two", "three"])).session()
    call = {"id": "1", "type": "function", "function": {"name": "ls", "arguments": json.dumps({})}}
    session.observe({"role": "assistant", "content": "", "tool_calls": [call]})
    session.observe({"role": "tool", "tool_call_id": "1", "name": "ls", "content": "/a/new\n/b/new"})
    best, *others = session.candidates(5)
    assert (best.tool, best.arguments) == ("open", {"mode": 1, "path": "/b/new"})
    assert {"mode": 1, "path": "/a/new"} in [guess.arguments for guess in others]
    assert session.tools() == {"open": 1.0}


def test_without_training_nothing_is_offered() -> None:
    for kind in (Copying, Frequent):
        session = learned(kind).session()
        assert (session.candidates(3), session.candidates(3, tool="f"), session.tools()) == ([], [], {})


def test_values_that_json_cannot_say_are_passed_over() -> None:
    odd = Session("s", "s", "t", (Turn("assistant", "", (Call("f", {"x": "\ud800"}),)),))
    assert learned(Frequent, odd).session().candidates(3) == []
    assert learned(Copying, odd).session().candidates(3)[0].tool == "f"


def test_a_baseline_knows_its_source_and_falls_back_on_all() -> None:
    baselines = BySource(Copying)
    for session in (lookups("shop", 1), Session("s", "s", "t", (Turn("assistant", "", (Call("f", {}),)),))):
        baselines.add(session)
    baselines.finish()
    assert baselines.of(lookups("shop", 2)).session().tools() == {"find_order": 1.0}
    assert baselines.of(lookups("elsewhere", 2)).session().tools() == {"find_order": 0.5, "f": 0.5}


def test_only_tools_that_are_offered_are_expected() -> None:
    for kind in (Copying, Frequent):
        baseline = learned(kind, lookups("shop", 1))
        session = baseline.session(["find_customer", "other"])
        assert {guess.tool for guess in session.candidates(5)} <= {"find_customer"}
        assert baseline.session([]).candidates(5) == []
        assert set(session.tools()) <= {"find_customer"}
        assert [guess.tool for guess in session.candidates(1, tool="find_order")] == ["find_order"]
