"""The writes that came through the gateway."""

from collections import deque
from typing import NamedTuple

from sglang_paste.calls import SessionId, TenantId, ToolCall
from sglang_paste.events import ToolReturned

MAX_WRITES_MADE = 1024


class _Made(NamedTuple):
    tenant: TenantId
    session: SessionId | None
    key: str
    call_id: str | None


class WritesMade:
    """Tells a result of such a write, which has been counted, from that of one that was made elsewhere. Bounded; what
    is forgotten counts twice."""

    def __init__(self) -> None:
        self._made: deque[_Made] = deque(maxlen=MAX_WRITES_MADE)

    def add(self, call: ToolCall, session: SessionId | None, key: str) -> None:
        """The call is about to be made."""
        self._made.append(_Made(call.tenant, session, key, call.call_id))

    def undo(self, call: ToolCall, key: str) -> None:
        """The call came to nothing."""
        for made in self._made:
            same_call = (made.tenant, made.key, made.call_id) == (call.tenant, key, call.call_id)
            if same_call and call.session in (None, made.session):
                self._made.remove(made)
                return

    def take(self, event: ToolReturned, key: str) -> bool:
        """Whether the result is of one of them; each has one."""
        for made in self._made:
            same_call = (made.tenant, made.key) == (event.tenant, key)
            if same_call and made.session in (None, event.session) and made.call_id in (None, event.call_id):
                self._made.remove(made)
                return True
        return False
