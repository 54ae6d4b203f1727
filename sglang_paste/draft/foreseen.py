"""The calls that sessions are expected to make next, as the side process said last."""

from collections import OrderedDict

from sglang_paste.calls import SessionId, TenantId
from sglang_paste.events import Draft, ForeseenCall

MAX_SESSIONS = 1024

Key = tuple[TenantId, SessionId]


class Foreseen:
    """Of each session of each tenant; bounded, those heard of least lately go first."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[Key, tuple[ForeseenCall, ...]] = OrderedDict()

    def take(self, draft: Draft) -> Key:
        """What it says takes the place of what was said before; whose it is."""
        key = (draft.tenant, draft.session)
        self._sessions.pop(key, None)
        if draft.calls:
            self._sessions[key] = tuple(sorted(draft.calls, key=lambda call: -call.probability))
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)
        return key

    def calls(self, key: Key, tool: str | None = None) -> list[ForeseenCall]:
        """The likeliest first; with `tool`, those of this tool."""
        return [call for call in self._sessions.get(key, ()) if tool in (None, call.tool)]

    def drop(self, key: Key) -> None:
        """The turn they were for is over."""
        self._sessions.pop(key, None)

    def __len__(self) -> int:
        return len(self._sessions)
