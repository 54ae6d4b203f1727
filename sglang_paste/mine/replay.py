"""A recorded session, played into the state message by message, with a stop before each assistant turn that calls."""

from collections.abc import Iterator
from zlib import crc32

from sglang_paste.mine.records import Call, Session
from sglang_paste.predict.state import State


def moments(session: Session, state: State, *, saying: float = 0.0) -> Iterator[tuple[State, tuple[Call, ...]]]:
    """The state, a new one, as it is before each assistant turn with calls, and the calls it then made; of a share of
    these turns as it is when the model has said what it says before them, and only the calls are left (`saying`: 0 of
    none, 1 of all; which, depends on the session alone).

    What a server does not see before it predicts (whether the recorder called a result an error) is left out.
    """
    for number, turn in enumerate(session.turns):
        if turn.role == "system":
            state.system(turn.content)
        elif turn.role == "user":
            state.user(turn.content)
        elif turn.role == "assistant":
            if turn.tool_calls:
                if turn.content and _chance(session, number) < saying:
                    state.saying(turn.content)
                yield state, turn.tool_calls
            state.said(turn.content)
            for call in turn.tool_calls:
                state.call(call.name, call.arguments)
        for result in turn.tool_results:
            state.result(result.name, result.content)


def _chance(session: Session, turn: int) -> float:
    return crc32(f"{session.source}/{session.session_id}/{turn}".encode("utf-8", "replace")) / 2**32
