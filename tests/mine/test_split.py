"""Splits are by whole tasks, the same whatever the order, and no task is ever on both sides."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_paste.mine import split as module
from sglang_paste.mine.records import Session, Turn
from sglang_paste.mine.split import Split, Tasks, task_keys


def asked(task: str, text: str, number: int = 0) -> Session:
    return Session("shop", f"{task}-{text}-{number}", task, (Turn("user", text),))


asking = st.builds(
    asked,
    st.sampled_from("abcdef"),
    st.sampled_from([f"please do the thing number {n}" for n in range(6)]),
    st.integers(0, 3),
)
many = st.lists(asking, max_size=25)


def check_apart(sessions: list[Session], folds: int) -> None:
    split = Split(sessions, folds)
    for part in range(folds):
        trained = {key for session in split.train(sessions, part) for key in task_keys(session)}
        tested = {key for session in split.test(sessions, part) for key in task_keys(session)}
        assert not trained & tested


@given(many, st.integers(2, 4))
def test_no_id_and_no_text_is_on_both_sides(sessions: list[Session], folds: int) -> None:
    check_apart(sessions, folds)


def test_the_property_catches_a_split_by_id_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "task_keys", lambda session: task_keys(session)[:1])

    @given(many)
    def check(sessions: list[Session]) -> None:
        check_apart(sessions, 3)

    with pytest.raises(AssertionError):
        check()


@given(many, st.randoms(use_true_random=False))
def test_the_order_of_the_sessions_changes_nothing(sessions: list[Session], drawn: random.Random) -> None:
    shuffled = drawn.sample(sessions, len(sessions))
    one, other = Split(sessions, 3), Split(shuffled, 3)
    assert [one.part(session) for session in sessions] == [other.part(session) for session in sessions]


def test_the_parts_are_all_of_it() -> None:
    sessions = [asked(str(number), f"what is the answer to {number}") for number in range(60)]
    split = Split(sessions, 4)
    parts = [list(split.test(sessions, part)) for part in range(4)]
    assert sorted(session.task_id for part in parts for session in part) == sorted(s.task_id for s in sessions)
    assert all(parts)


def test_a_split_by_session_has_tasks_on_both_sides() -> None:
    sessions = [asked("one", "the same text for all of them", number) for number in range(40)]
    assert {Split(sessions, 2, "session").part(session) for session in sessions} == {0, 1}
    assert len({Split(sessions, 2).part(session) for session in sessions}) == 1


def test_texts_are_compared_by_their_words_and_greetings_name_no_task() -> None:
    tasks = Tasks()
    tasks.add(asked("a", "Question: Who wrote   'the book'?"))
    tasks.add(asked("b", "hi there!"))
    assert asked("c", "who wrote the book") in tasks
    assert asked("a", "anything") in tasks
    assert asked("c", "hi there!") not in tasks
    assert asked("c", "who wrote this book") not in tasks


def test_a_number_is_the_id_of_a_task_in_its_source_alone() -> None:
    tasks = Tasks()
    for task in ("7", "airline/7"):
        tasks.add(asked(task, "please"))
    others = [Session("fair", "s", task, ()) for task in ("7", "airline/7")]
    assert [session in tasks for session in others] == [False, True]
