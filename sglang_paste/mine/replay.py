"""A recorded session, played into the state message by message, with a stop before each assistant turn that calls."""

from collections.abc import Iterator

from sglang_paste.mine.records import Call, Session
from sglang_paste.predict.state import State


def moments(session: Session, state: State) -> Iterator[tuple[State, tuple[Call, ...]]]:
    """The state, a new one, as it is before each assistant turn with calls, and the calls it then made.

    What a server does not see before it predicts (whether the recorder called a result an error) is left out.
    """
    for turn in session.turns:
        if turn.role == "system":
            state.system(turn.content)
        elif turn.role == "user":
            state.user(turn.content)
        elif turn.role == "assistant":
            if turn.tool_calls:
                yield state, turn.tool_calls
            state.said(turn.content)
            for call in turn.tool_calls:
                state.call(call.name, call.arguments)
        for result in turn.tool_results:
            state.result(result.name, result.content)
