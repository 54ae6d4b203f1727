"""The parts that mined patterns are made of: texts, ways, templates, levels, recollections."""

import json
from collections.abc import Sequence
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_paste.predict import choose, extract, recall, slots, template
from sglang_paste.predict.contexts import features
from sglang_paste.predict.levels import Level
from sglang_paste.predict.patterns import Argument
from sglang_paste.predict.recall import Memory, Recaller
from sglang_paste.predict.state import ANY, LAST, Outline, State, stands, text_of
from sglang_paste.predict.ways import Way, build, explain, form_of, forward, values

TEXTS = st.text(max_size=300)


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("see src/app/main.py now", "path", "src/app/main.py"),
        ("see src/app/main.py now", "base", "main.py"),
        ("see src/app/main.py now", "dir", "src/app"),
        ("at https://a.org/b?c=d.", "url", "https://a.org/b?c=d"),
        ("on 2024-05-17, please", "date", "2024-05-17"),
        ("the class org.apache.URL.getHost fails", "dotted", "org.apache.URL.getHost"),
        ("my order #W5061109", "id", "#W5061109"),
        ("call parse_args(x)", "called", "parse_args"),
        ("call open(x)", "called", "open"),
        ("a Café_1 there", "id", "Café_1"),
    ],
)
def test_tokens(text: str, kind: str, value: str) -> None:
    assert value in extract.tokens(text)[kind]


@given(st.text("ab./( \n", max_size=8), st.text("ab./( \n", max_size=30))
def test_a_text_stands_nowhere_without_its_end(text: str, where: str) -> None:
    end = slots.tail(text)
    assert end in text
    assert stands(text, end, where) == (text in where, end != "" and end in where)


def test_plain_words_are_no_tokens() -> None:
    assert extract.tokens("Here are only plain words, über alles.") == {}


def plainly(text: str) -> extract.Found:
    """What the pattern of a token finds in the text as a whole."""
    values: dict[str, dict[str, None]] = {}
    for kind, value in extract._classified(text):
        values.setdefault(kind, {})[value] = None
    return {kind: list(some) for kind, some in values.items()}


CODE = st.lists(
    st.sampled_from(
        ["src/a.py", "parse_url", "URLOf", "x", "12", "2024-01-02", "#W1", "~/b", "é_1", "Plain", *"./:@$+-(),= \n"]
    )
).map("".join)


@given(CODE)
def test_tokens_of_pieces_are_those_of_the_whole(text: str) -> None:
    assert extract.tokens(text) == plainly(text)


@pytest.mark.parametrize(
    ("left_out", "text"), [("/", "src/a.py"), ("(", "call f(x)"), ("-", "2024-01-02"), (":", "a::b")]
)
def test_a_cut_inside_of_tokens_is_noticed(left_out: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cut = bytes(32 if code == ord(left_out) else kept for code, kept in enumerate(extract._CUT))
    monkeypatch.setattr(extract, "_CUT", cut)
    assert extract.tokens(text) != plainly(text)


def test_prose_names_phrases_and_days() -> None:
    found = extract.prose("Who wrote The Name of the Rose (novel) before May 24?", "2024")
    assert "The Name of the Rose (novel)" in found["phrase"]
    assert "The Name of the Rose" in found["part"]
    assert found["date"] == ["2024-05-24"]


def test_leaves_say_path_and_object() -> None:
    found = list(extract.leaves({"a": [{"id": "x", "n": 1}, {"id": "y"}], "cards": {"card_12": {"kind": "visa"}}}))
    paths = {(path, text) for path, text, _ in found}
    assert {(".a[].id", "x"), (".a[].n", "1"), (".a[].id", "y"), (".cards.{}", "card_12")} <= paths
    holders = {text: holder for _, text, holder in found}
    assert holders["x"] == holders["1"] != holders["y"]


@settings(max_examples=50)
@given(TEXTS, st.sampled_from([None, frozenset[str](), frozenset(("path", "phrase", "line", "hit"))]))
def test_any_text_can_be_read(text: str, wanted: frozenset[str] | None) -> None:
    for found in (extract.prose(text, "2024", wanted), extract.result(text, wanted)):
        for kind, some in found.items():
            assert kind
            assert len(some) == len(set(some)) <= extract.MAX_PER_KIND
            assert all(len(value) <= max(extract.MAX_VALUE_CHARS, len(text)) for value in some)


@settings(max_examples=30)
@given(st.integers(0, 3), st.sampled_from("abc -#/.(\n\"'`:é\ud800"), st.integers(5_000, 300_000))
def test_a_long_text_costs_no_more_than_its_ends(role: int, char: str, size: int) -> None:
    state = State()
    observe = (state.system, state.user, state.said, lambda text: state.result("read", text))[role]
    observe(char * size)
    assert sum(map(len, state.values(LAST, "path"))) <= extract.MAX_CHARS


STEPS = st.lists(st.tuples(st.sampled_from(["system", "user", "said", "call", "result"]), TEXTS), max_size=12)


@given(STEPS)
def test_an_outline_gives_the_context_that_the_whole_gives(steps: list[tuple[str, str]]) -> None:
    whole, outline = State(), Outline()
    for kind, text in steps:
        for state in (whole, outline):
            if kind == "call":
                state.call("read", {"path": text, "lines": [text, 1]})
            elif kind == "result":
                state.result("read", f'{{"found": ["{text}"]}}')
            else:
                getattr(state, kind)(text)
    assert features(outline) == features(whole)
    assert Recaller(Memory()).sights(outline) == Recaller(Memory()).sights(whole)
    assert not outline.seen
    assert not outline.used


@given(TEXTS)
def test_a_template_filled_with_its_places_is_the_text(text: str) -> None:
    for whole in (text, f"cat {text}/a.py"):
        pattern, places = template.split(whole)
        assert len(template.holes(pattern)) == len(places)
        assert template.fill(pattern, places) == whole.replace(template.HOLE, " ")


def test_templates_leave_what_is_no_place() -> None:
    pattern, places = template.split("cd /workspace && python -m pytest tests/test_a.py -v 2>/dev/null")
    assert places == ["tests/test_a.py"]
    assert template.holes(pattern) == ["pytest"]


@pytest.mark.parametrize(
    ("command", "does"),
    [
        ("cd /workspace && npm run build 2>&1 | tail -20", "npm run build"),
        ("python -m pytest tests/test_a.py -v", "python pytest"),
        ("source venv/bin/activate && CI=1 git stash", "git stash"),
        ("cat package.json", "cat"),
        ("2 + 2", ""),
        ("", ""),
    ],
)
def test_what_a_command_does(command: str, does: str) -> None:
    assert template.verb(command) == does


def test_a_command_of_the_session_is_a_template_for_the_next() -> None:
    state = State()
    state.call("run", {"command": "tox -e lint src/a.py --strict"})
    state.result("run", "src/b.py: ok")
    ways = [way for way in explain(state, "run", "command", "tox -e lint src/b.py --strict") if way.form == "t"]
    assert [values(way, state) for way in ways] == [["tox -e lint \x00 --strict"]]
    other = "tox -e unit src/b.py --strict"
    assert not [way for way in explain(state, "run", "command", other) if way.form == "t"]


def test_a_task_list_goes_one_step_on() -> None:
    before = [{"task": "a", "status": "in_progress"}, {"task": "b", "status": "pending"}]
    after = [{"task": "a", "status": "completed"}, {"task": "b", "status": "in_progress"}]
    assert forward(text_of(before))[0] == text_of(after)
    assert forward("[1, 2]") == forward("[{") == ()


def seen() -> State:
    state = State()
    state.user("Read src/a.py and src/b.py, then ask for Ada Lovelace")
    state.said("I will read `src/a.py`")
    state.call("read", {"path": "src/a.py", "offset": 1, "limit": 50, "names": ["x"]})
    state.result("read", "def handle_request(self): pass\nimport os.path")
    state.said("")
    state.call("ls", {"path": "src"})
    state.result("ls", "a.py\nb.py")
    return state


@pytest.mark.parametrize("value", ["src/b.py", "src/a.py", "handle_request", ["x"], 51, "Ada Lovelace"])
def test_explained_ways_make_the_value(value: Any) -> None:
    state = seen()
    ways = list(explain(state, "read", "offset", value))
    assert ways
    for way in ways:
        form = "l" if way.form == "l" else form_of(value)
        assert value in [build(text, form) for text in values(way, state) if form != "j" or text[:1] in "[5"]


def test_columns_of_a_table_are_arguments() -> None:
    state = State()
    legs = [{"flight": "A1", "date": "2024-05-01", "price": 3}, {"flight": "B2", "date": "2024-05-02", "price": 4}]
    state.call("book", {"id": "X"})
    state.result("book", json.dumps({"legs": legs}))
    wanted = [{"flight": leg["flight"], "date": leg["date"]} for leg in legs]
    for value in (wanted, wanted[1:], ["A1", "B2"], ["B2"], [4]):
        ways = [way for way in explain(state, "change", "legs", value) if way.form == "p"]
        assert ways
        assert all(text_of(value) in values(way, state) for way in ways)


def test_the_latest_of_a_source_replaces_what_was_there() -> None:
    state = seen()
    assert state.values("ls", "base") == []
    assert state.values(LAST, "dotted") == ["a.py", "b.py"]
    assert state.values(ANY, "called") == ["handle_request"]
    assert state.values(ANY, "dotted") == ["a.py", "b.py", "os.path"]


def test_a_fork_goes_its_own_way() -> None:
    state, untouched = seen(), seen()
    fork = state.fork()
    fork.user("something else: src/z.py")
    fork.call("read", {"path": "src/z.py", "names": ["y"]})
    fork.result("read", json.dumps({"rows": [{"id": "src/a.py"}]}))
    for source, kind in (("user", "path"), ("@", "*"), ("@read", "names"), (LAST, "path"), (ANY, "dotted")):
        assert state.values(source, kind) == untouched.values(source, kind)
    assert (state.used, state.seen, state.records) == (untouched.used, untouched.seen, untouched.records)
    assert [call.outcome for call in state.calls] == [call.outcome for call in untouched.calls]


def weighed(weights: Sequence[float]) -> tuple[choose.Weighed, list[float], State, slots.Context]:
    ways = [Way("task", "path", "s"), Way("@read", "path", "s"), Way("@", "path", "1"), Way("nowhere", "x", "s")]
    argument = Argument("read", "path", ways, [("src/b.py", "s"), ("cat \x00", "t")])
    size = choose.width(argument) + slots.NONE
    state = seen()
    context = slots.Context(state, slots.Scene(state), "read", "path")
    table = np.array([weights[place % len(weights)] for place in range(size)], np.float32)
    return choose.Weighed(argument, table), table.tolist(), state, context


@settings(max_examples=50)
@given(st.lists(st.floats(-3, 3, width=32), min_size=7, max_size=90))
def test_the_quick_score_is_the_sum_of_the_slots(weights: list[float]) -> None:
    plain, table, state, context = weighed(weights)
    odds = np.array([-0.5, -2.0, -3.0], np.float32)
    buckets = slots.odds_buckets(odds) + choose.width(plain.argument) - slots.ODDS
    found = choose.gather(plain.argument, state, context)
    quick, size = plain.prescore(state, context, odds)
    assert size == len(found) == len(quick)
    for score, *value in quick:
        real = [mark if mark >= 0 else buckets[-1 - mark] for mark in found[tuple(value)]]
        assert score == pytest.approx(sum(table[mark] for mark in real), abs=1e-5)


@settings(max_examples=50)
@given(st.lists(st.floats(-3, 3, width=32), min_size=40, max_size=40))
def test_constants_that_are_not_among_the_best_are_left_out(scores: list[float]) -> None:
    constants = [(f"constant {number}", "s") for number in range(len(scores))]
    argument = Argument("read", "path", [], constants)
    weights = np.zeros(choose.width(argument) + slots.NONE, np.float32)
    weights[slots.VALUE : slots.VALUE + len(scores)] = scores
    state = seen()
    context = slots.Context(state, slots.Scene(state), "read", "path")
    odds = np.zeros(len(scores) + 1, np.float32)
    found, size = choose.Weighed(argument, weights).prescore(state, context, odds)
    assert size == len(scores)
    assert sorted([score for score, _, _ in found], reverse=True) == sorted(scores, reverse=True)[: choose.MAX_CLOSE]


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=200), st.integers(1, 210))
def test_the_highest_come_in_their_order(scores: list[float], count: int) -> None:
    ranked = sorted(range(len(scores)), key=lambda place: -scores[place])
    assert choose.highest(np.array(scores), count).tolist() == ranked[:count]


VALUES = ("src/a.py", "", "x" * 500, "A b c d e f", "handle_request", "src/b.py", "a", "Ada Lovelace", "src", "50")


@given(st.lists(st.floats(-3, 3, width=32), min_size=7, max_size=90), st.sampled_from(VALUES))
def test_the_closer_look_is_the_sum_of_the_slots(weights: list[float], text: str) -> None:
    plain, table, _, context = weighed(weights)
    ((score, _, _),) = plain.closer([(0.5, text, "s")], context)
    assert score == pytest.approx(0.5 + sum(table[slot] for slot in slots.of_value(text, context)), abs=1e-5)


@pytest.mark.parametrize(
    ("text", "bits"), [("src/a.py", 0b111_111), ("Ada Lovelace", 0b110_100), ("", 0b111_000), ("handle_request", 0)]
)
def test_where_values_are_named(text: str, bits: int) -> None:
    assert slots.Scene(seen()).traits(text)[0] == bits


def test_slots_stay_in_their_blocks() -> None:
    state = seen()
    scene = slots.Scene(state)
    context = slots.Context(state, scene, "read", "path")
    for text in VALUES:
        assert all(0 <= slot < slots.VALUE for slot in slots.of_value(text, context))
    assert all(0 <= how < 3 for how in slots.related(VALUES, ["src/a.py"], state))
    for size in (1, 5, 48):
        assert all(0 <= slot < slots.WAY for slot in slots.of_list(size, 9, scene))
        assert all(0 <= slot < slots.NONE for slot in slots.of_none(size, context))


@given(st.floats(-3, 3), st.floats(0.1, 3), st.floats(0, 1), st.floats(0, 1))
def test_a_level_rises(shift: float, slope: float, one: float, other: float) -> None:
    level = Level(shift, slope)
    low, high = sorted((one, other))
    assert 0.0 < level.real(low) <= level.real(high) < 1.0
    assert Level().real(one) == pytest.approx(one, abs=1e-4)


def test_what_followed_is_recalled_and_judged() -> None:
    memory = Memory()
    state = State()
    state.user("the same question again")
    first = Recaller(memory)
    for _ in range(3):
        memory.add(first.sights(state), "search", {"query": "x"})
    memory.add(first.sights(state), "search", {"password": "hunter2 hunter2"})
    again = Recaller(Memory(memory.recollection()))
    sights = again.sights(state)
    grade = again.recalled(sights)[0][0]
    assert again.known
    assert again.odds(sights, {grade: 0.9}) == {json.dumps(["search", {"query": "x"}], separators=(",", ":")): 0.9}
    again.judge(sights, "search", {"query": "x"})
    assert again.standing == "110"
    assert "hunter2" not in str(memory.recollection())


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), max_size=60))
def test_what_no_sight_brings_back_is_forgotten(history: list[tuple[int, int]]) -> None:
    memory = Memory()
    with mock.patch.multiple(recall, MAX_CALLS=2, MAX_CONTEXTS=2):
        for sight, call in history:
            memory.add([("task", sight)], "search", {"query": str(call)})
    known = {call for sight in range(3) for call, _ in memory.followed(sight)}
    kept = memory.recollection()
    assert set(kept.calls) == known
    assert len(kept.calls) <= 4
    again = Memory(kept)
    assert all(again.followed(sight) == memory.followed(sight) for sight in range(3))


def test_what_is_recalled_has_the_probability_that_others_had() -> None:
    memory, state = Memory(), State()
    state.user("the same question again")
    sights = Recaller(memory).sights(state)
    memory.add(sights, "search", {"query": "x"})
    memory.add(sights[:1], "open", {"page": "y"})
    recaller = Recaller(memory)
    assert recaller.sights(state) == sights
    trust = {grade: 0.9 for grade, _ in recaller.recalled(sights)}
    raw = recaller.odds(sights, trust)
    assert len(raw) == 2
    levels = {"": Level(-9.0), "1 search": Level(-2.0), "0 search": Level(5.0)}
    real = recaller.odds(sights, trust, levels)
    assert list(real) == list(raw)
    for call, p in raw.items():
        assert real[call] == pytest.approx(levels["1 search" if "search" in call else ""].real(p))
    assert sum(recaller.odds(sights, trust, {"": Level(9.0)}).values()) <= 1.0
