"""What is known of a session's next request before it comes: its last one, the reply to it, and the tools' results."""

from collections import OrderedDict
from typing import Any, Generic, TypeVar

import msgspec

from sglang_paste.calls import SessionId, TenantId

MAX_TURNS = 128
MAX_RESULTS = 64  # of a turn
MAX_RESULT_CHARS = 4 * 65_536

Q = TypeVar("Q")


class ReplyCall(msgspec.Struct):
    """One call of a reply; `arguments` as the client got them, piece by piece."""

    id: str
    name: str
    arguments: str = ""


class Reply(msgspec.Struct):
    """The assistant's message, as the client got it."""

    content: str = ""
    calls: list[ReplyCall] = msgspec.field(default_factory=list)

    def message(self) -> dict[str, Any]:
        """As the client sends it back."""
        calls = [
            {"id": each.id, "type": "function", "function": {"name": each.name, "arguments": each.arguments}}
            for each in self.calls
        ]
        return {"role": "assistant", "content": self.content or None, "tool_calls": calls}


class OpenTurn(msgspec.Struct, Generic[Q], eq=False):
    """A turn whose session has not come back. `query` is what the caller keeps of its request."""

    tenant: TenantId
    session: SessionId
    query: Q
    request: str | None = None  # known with the reply
    reply: Reply | None = None
    results: dict[tuple[str, int], str] = msgspec.field(default_factory=dict)
    foretold: int = 0  # results in what `following` last said

    def following(self) -> list[dict[str, Any]] | None:
        """The messages that the next request will add, as far as they are known: the reply, and the results of its
        calls up to the first that is missing. None where there is nothing new."""
        if self.reply is None or self.request is None:
            return None
        answers = []
        for number, call in enumerate(self.reply.calls):
            content = self.results.get((self.request, number))
            if content is None:
                break
            answers.append({"role": "tool", "tool_call_id": call.id, "content": content})
        if len(answers) <= self.foretold:
            return None
        self.foretold = len(answers)
        return [self.reply.message(), *answers]


class OpenTurns(Generic[Q]):
    """The last turn of each session; bounded, the oldest goes first."""

    def __init__(self, limit: int = MAX_TURNS) -> None:
        self._limit = limit
        self._turns: OrderedDict[tuple[TenantId, SessionId], OpenTurn[Q]] = OrderedDict()

    def began(self, tenant: TenantId, session: SessionId, query: Q) -> OpenTurn[Q] | None:
        """A session sent a request; returns the turn before, which is over."""
        before = self._turns.pop((tenant, session), None)
        self._turns[tenant, session] = OpenTurn(tenant, session, query)
        if len(self._turns) > self._limit:
            self._turns.popitem(last=False)
        return before

    def is_open(self, turn: OpenTurn[Q]) -> bool:
        """Whether its session has not come back."""
        return self._turns.get((turn.tenant, turn.session)) is turn

    def replied(self, tenant: TenantId, session: SessionId, request: str, reply: Reply) -> OpenTurn[Q] | None:
        """The reply to a request is complete; the turn, where it is still open."""
        turn = self._turns.get((tenant, session))
        if turn is not None:
            turn.request, turn.reply = request, reply
        return turn

    def resulted(
        self, tenant: TenantId, session: SessionId, request: str, index: int, content: str
    ) -> OpenTurn[Q] | None:
        """The result of a call of a request is known; the turn, where it is still open."""
        turn = self._turns.get((tenant, session))
        if turn is not None and len(content) <= MAX_RESULT_CHARS and len(turn.results) < MAX_RESULTS:
            turn.results[request, index] = content
        return turn
