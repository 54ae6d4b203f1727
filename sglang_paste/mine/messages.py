"""A recorded session as the messages of the OpenAI chat API, which is what a predictor observes."""

import json
from collections.abc import Iterator
from typing import Any

from sglang_paste.mine.read.text import Pending
from sglang_paste.mine.records import Call, Result, Session, Turn

Message = dict[str, Any]


class Step:
    """One turn: its messages, the calls in it, and for each of these what it returned and the seconds it ran (None
    where not recorded)."""

    __slots__ = ("calls", "durations", "messages", "results", "turn")

    def __init__(self, turn: Turn, messages: list[Message], calls: tuple[Call, ...]) -> None:
        self.turn = turn
        self.messages = messages
        self.calls = calls
        self.results: list[str | None] = [None] * len(calls)
        self.durations: list[float | None] = [None] * len(calls)


def steps(session: Session) -> Iterator[Step]:
    """The session's turns in order. A call without an id gets one, and its result the same."""
    found = list[Step]()
    pending, by_id = Pending(), dict[str | None, list[tuple[Step, int]]]()
    for number, turn in enumerate(session.turns):
        calls = tuple(
            call if call.id else Call(call.name, call.arguments, f"call_{number}_{index}")
            for index, call in enumerate(turn.tool_calls)
        )
        step = Step(turn, list(_messages(turn, calls)), calls)
        if turn.role == "assistant":
            pending = Pending(calls)
            by_id = {}
            for index, call in enumerate(calls):
                by_id.setdefault(call.id, []).append((step, index))
        for result in turn.tool_results:
            answered = pending.result(result.content, result.id, result.name or None)
            step.messages.append(_tool_message(answered))
            if by_id.get(answered.id):
                made, index = by_id[answered.id].pop(0)
                made.results[index], made.durations[index] = result.content, result.duration_s
        found.append(step)
    yield from found


def _messages(turn: Turn, calls: tuple[Call, ...]) -> Iterator[Message]:
    if turn.role == "tool":
        return
    message: Message = {"role": turn.role, "content": turn.content}
    if calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
            }
            for call in calls
        ]
    yield message


def _tool_message(result: Result) -> Message:
    return {"role": "tool", "tool_call_id": result.id or "", "name": result.name, "content": result.content}
