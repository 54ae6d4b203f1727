"""What the next request of a session will add, as soon as it is known."""

from sglang_paste.calls import DEFAULT_TENANT, SessionId
from sglang_paste.session.reply import MAX_RESULT_CHARS, OpenTurns, Reply, ReplyCall

SESSION = SessionId("s")
REPLY = Reply("Let me see.", [ReplyCall("c0", "read", '{"x": 1}'), ReplyCall("c1", "grep", '{"y": 2}')])


def test_the_reply_and_the_results_in_the_order_of_the_calls() -> None:
    turns: OpenTurns[str] = OpenTurns()
    turns.began(DEFAULT_TENANT, SESSION, "query")
    turns.resulted(DEFAULT_TENANT, SESSION, "r", 1, "second")
    turn = turns.replied(DEFAULT_TENANT, SESSION, "r", REPLY)
    assert turn is not None
    assert turn.following() is None
    turns.resulted(DEFAULT_TENANT, SESSION, "r", 0, "first")
    assert turn.following() == [
        {
            "role": "assistant",
            "content": "Let me see.",
            "tool_calls": [
                {"id": "c0", "type": "function", "function": {"name": "read", "arguments": '{"x": 1}'}},
                {"id": "c1", "type": "function", "function": {"name": "grep", "arguments": '{"y": 2}'}},
            ],
        },
        {"role": "tool", "tool_call_id": "c0", "content": "first"},
        {"role": "tool", "tool_call_id": "c1", "content": "second"},
    ]
    assert turn.following() is None


def test_one_result_after_the_other() -> None:
    turns: OpenTurns[None] = OpenTurns()
    turns.began(DEFAULT_TENANT, SESSION, None)
    turn = turns.replied(DEFAULT_TENANT, SESSION, "r", REPLY)
    assert turn is not None
    turns.resulted(DEFAULT_TENANT, SESSION, "r", 0, "first")
    assert [message["role"] for message in turn.following() or ()] == ["assistant", "tool"]
    turns.resulted(DEFAULT_TENANT, SESSION, "r", 0, "first, again")
    assert turn.following() is None
    turns.resulted(DEFAULT_TENANT, SESSION, "r", 1, "second")
    assert len(turn.following() or ()) == 3


def test_results_of_another_request_and_huge_ones_say_nothing() -> None:
    turns: OpenTurns[None] = OpenTurns()
    assert turns.resulted(DEFAULT_TENANT, SESSION, "r", 0, "early") is None
    assert turns.replied(DEFAULT_TENANT, SESSION, "r", REPLY) is None
    turns.began(DEFAULT_TENANT, SESSION, None)
    turn = turns.replied(DEFAULT_TENANT, SESSION, "r", REPLY)
    turns.resulted(DEFAULT_TENANT, SESSION, "other", 0, "theirs")
    turns.resulted(DEFAULT_TENANT, SESSION, "r", 0, "x" * (MAX_RESULT_CHARS + 1))
    assert turn is not None
    assert turn.following() is None


def test_a_turn_is_open_until_its_session_is_back_or_too_many_came_after() -> None:
    turns: OpenTurns[int] = OpenTurns(limit=2)
    turns.began(DEFAULT_TENANT, SESSION, 1)
    first = turns.replied(DEFAULT_TENANT, SESSION, "r", REPLY)
    assert first is not None
    assert turns.is_open(first)
    assert turns.began(DEFAULT_TENANT, SESSION, 2) is first
    assert not turns.is_open(first)
    for name in "ab":
        turns.began(DEFAULT_TENANT, SessionId(name), 3)
    assert turns.replied(DEFAULT_TENANT, SESSION, "r", REPLY) is None
