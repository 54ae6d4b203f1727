"""Requests find their session without the client's help, and never another's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_paste.calls import DEFAULT_TENANT, SessionId, TenantId
from sglang_paste.session import Message, MessageCall, Sessions

T = DEFAULT_TENANT
USER = Message(role="user", content="list the files")


def call(call_id: str, tool: str = "ls", arguments: str = "{}") -> Message:
    return Message(role="assistant", calls=(MessageCall(call_id, tool, arguments),))


def result(call_id: str, content: str = "a.py") -> Message:
    return Message(role="tool", content=content, answers=call_id)


def test_named_session_wins() -> None:
    sessions = Sessions()
    sessions.issued(T, SessionId("one"), "call_1")
    assert sessions.resolve(T, [USER, call("call_1")], "mine") == "mine"


def test_two_first_prompts_are_two_sessions() -> None:
    sessions = Sessions()
    assert sessions.resolve(T, [USER]) != sessions.resolve(T, [USER])


def test_call_id_leads_back() -> None:
    sessions = Sessions()
    one, two = sessions.resolve(T, [USER]), sessions.resolve(T, [USER])
    sessions.issued(T, one, "call_1")
    sessions.issued(T, two, "call_2")
    assert sessions.resolve(T, [USER, call("call_1"), result("call_1")]) == one
    assert sessions.resolve(T, [USER, call("call_2"), result("call_2")]) == two


def test_result_alone_leads_back() -> None:
    sessions = Sessions()
    sessions.issued(T, SessionId("one"), "call_1")
    assert sessions.resolve(T, [result("call_1")]) == "one"


def test_latest_call_decides_where_histories_meet() -> None:
    sessions = Sessions()
    sessions.issued(T, SessionId("parent"), "call_1")
    sessions.issued(T, SessionId("child"), "call_2")
    history = [USER, call("call_1"), result("call_1"), call("call_2"), result("call_2")]
    assert sessions.resolve(T, history) == "child"
    assert sessions.resolve(T, history[:3]) == "parent"


def test_call_id_of_two_sessions_tells_nothing() -> None:
    sessions = Sessions()
    sessions.issued(T, SessionId("one"), "functions.ls:0")
    sessions.issued(T, SessionId("two"), "functions.ls:0")
    assert sessions.resolve(T, [USER, call("functions.ls:0")]) not in ("one", "two")


def test_answer_leads_back() -> None:
    sessions = Sessions()
    one = sessions.resolve(T, [USER])
    answer = Message(role="assistant", content="Here they are: a.py")
    sessions.answered(T, one, [USER], answer)
    again = Message(role="assistant", content="  Here they are: a.py\n")
    assert sessions.resolve(T, [USER, again, Message(role="user", content="thanks")]) == one
    other = Message(role="assistant", content="Here they are: b.py")
    assert sessions.resolve(T, [USER, other, Message(role="user", content="thanks")]) != one


def test_same_answer_to_two_sessions_is_neither() -> None:
    sessions = Sessions()
    answer = Message(role="assistant", content="Hello")
    one, two = sessions.resolve(T, [USER]), sessions.resolve(T, [USER])
    for session in (one, two):
        sessions.answered(T, session, [USER], answer)
    assert sessions.resolve(T, [USER, answer, USER]) not in (one, two)


def test_longest_known_answer_decides() -> None:
    sessions = Sessions()
    first, second = (Message(role="assistant", content=text) for text in ("one", "two"))
    sessions.answered(T, SessionId("stem"), [USER], first)
    sessions.answered(T, SessionId("branch"), [USER, first, USER], second)
    assert sessions.resolve(T, [USER, first, USER, second, USER]) == "branch"
    assert sessions.resolve(T, [USER, first, USER]) == "stem"


def test_ambiguous_latest_answer_hides_earlier_ones() -> None:
    sessions = Sessions()
    first, second = (Message(role="assistant", content=text) for text in ("one", "two"))
    sessions.answered(T, SessionId("stem"), [USER], first)
    for branch in ("left", "right"):
        sessions.answered(T, SessionId(branch), [USER, first, USER], second)
    assert sessions.resolve(T, [USER, first, USER, second, USER]) not in ("stem", "left", "right")


def test_tenants_do_not_meet() -> None:
    sessions = Sessions()
    answer = Message(role="assistant", content="Hello")
    sessions.issued(T, SessionId("one"), "call_1")
    sessions.answered(T, SessionId("one"), [USER], answer)
    other = TenantId("other")
    assert sessions.resolve(other, [USER, call("call_1")]) != "one"
    assert sessions.resolve(other, [USER, answer, USER]) != "one"


def test_result_comes_back_once() -> None:
    sessions = Sessions()
    assert sessions.returned(T, SessionId("one"), "call_1")
    assert not sessions.returned(T, SessionId("one"), "call_1")
    assert sessions.returned(T, SessionId("two"), "call_1")


@pytest.mark.parametrize("capacity", [1, 3])
def test_memory_is_bounded(capacity: int) -> None:
    sessions = Sessions(capacity)
    for number in range(10):
        sessions.issued(T, SessionId(str(number)), f"call_{number}")
    known = [n for n in range(10) if sessions.resolve(T, [call(f"call_{n}")]) == str(n)]
    assert known == list(range(10 - capacity, 10))


class Careless(Sessions):
    """Takes the first owner of an answer for its only one."""

    def answered(self, tenant: TenantId, session: SessionId, messages: object, answer: Message) -> None:
        known = list(messages)  # type: ignore[call-overload]
        if self._by_answer(tenant, [*known, answer]) is None:
            super().answered(tenant, session, known, answer)


texts = st.sampled_from(["yes", "no"])


def crosses(sessions: Sessions, turns: list[tuple[int, str]]) -> bool:
    """Play conversations that say little; does one ever get a session another one owns?"""
    histories: dict[int, list[Message]] = {}
    owners: dict[str, int] = {}
    for number, text in turns:
        history = histories.setdefault(number, [])
        history.append(USER)
        session = sessions.resolve(T, history)
        if owners.setdefault(session, number) != number:
            return True
        answer = Message(role="assistant", content=text)
        sessions.answered(T, session, list(history), answer)
        history.append(answer)
    return False


@given(st.lists(st.tuples(st.integers(0, 3), texts), max_size=20))
def test_concurrent_conversations_never_cross(turns: list[tuple[int, str]]) -> None:
    assert not crosses(Sessions(), turns)


def test_the_property_catches_a_careless_one() -> None:
    assert crosses(Careless(), [(0, "yes"), (1, "yes"), (0, "yes"), (1, "yes")])
