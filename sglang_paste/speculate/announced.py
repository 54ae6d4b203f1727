"""The calls the engine has announced and whose results have not come back yet."""

import msgspec

from sglang_paste.calls import SessionId, TenantId
from sglang_paste.events import CallAborted, CallIssued, CallLikely, CallReady

MAX_ANNOUNCED = 2048
ANNOUNCED_TTL_S = 900.0

_Slot = tuple[TenantId, SessionId, str, int]


class Announced(msgspec.Struct, eq=False):
    """One call of one turn. What is not known yet is None; `ready` says that the engine really made it."""

    tenant: TenantId
    session: SessionId
    time: float
    key: str | None = None
    ready: bool = False
    call_id: str | None = None


class Announcements:
    """Bounded in number and time. The oldest goes together with all of its tenant that have the same key, so that what
    is left does not look unambiguous when it is not."""

    def __init__(self, limit: int = MAX_ANNOUNCED) -> None:
        self._limit = limit
        self._slots: dict[_Slot, Announced] = {}

    def __len__(self) -> int:
        return len(self._slots)

    def keyed(self, event: CallLikely | CallReady, key: str) -> str | None:
        """A call's arguments are known; returns the key the call was thought to have, where it was another."""
        announced = self._slot(event)
        before, announced.key = announced.key, key
        announced.ready = announced.ready or isinstance(event, CallReady)
        return before if before != key else None

    def issued(self, event: CallIssued) -> None:
        """A call has its id; this may come before its arguments."""
        self._slot(event).call_id = event.call_id

    def withdraw(self, event: CallAborted) -> str | None:
        """A call will never be made; returns the key it had."""
        announced = self._slots.pop(_slot_of(event), None)
        return announced.key if announced else None

    def expects(self, tenant: TenantId, session: SessionId, key: str) -> bool:
        """Whether the session has announced such a call."""
        return any(each.session == session for each in self._of(tenant, key))

    def session_of(self, tenant: TenantId, key: str, call_id: str | None) -> SessionId | None:
        """The one session that can mean this call: where its id was issued, else the only one that announced it."""
        if call_id is not None:
            issued = [each for each in self._slots.values() if each.tenant == tenant and each.call_id == call_id]
            exact = [each for each in issued if each.key in (key, None)]
            if issued:
                return _only({each.session for each in exact})
        return _only({each.session for each in self._of(tenant, key) if each.ready})

    def place(self, tenant: TenantId, session: SessionId, key: str, call_id: str | None) -> tuple[str, int] | None:
        """The request and the index of such a call of the session that the engine has really made: the one with this
        id, else the first."""
        made = [
            (slot, each.call_id)
            for slot, each in self._slots.items()
            if each.key == key and each.ready and slot[:2] == (tenant, session)
        ]
        named = [slot for slot, issued in made if call_id is not None and issued == call_id]
        slots = named or [slot for slot, _ in made]
        return slots[0][2:] if slots else None

    def returned(self, tenant: TenantId, session: SessionId, key: str, call_id: str | None) -> None:
        """The session has the result of such a call. Until then the call may come, or come again."""
        own = [slot for slot, each in self._slots.items() if each.key == key and slot[:2] == (tenant, session)]
        named = [slot for slot in own if call_id is not None and self._slots[slot].call_id == call_id]
        anonymous = [slot for slot in own if call_id is None or self._slots[slot].call_id is None]
        for slot in (named or anonymous)[:1]:
            del self._slots[slot]

    def expire(self, now: float) -> None:
        while self._slots and next(iter(self._slots.values())).time <= now - ANNOUNCED_TTL_S:
            self._forget_oldest()

    def forget(self, tenant: TenantId, session: SessionId) -> None:
        for slot in [slot for slot in self._slots if slot[:2] == (tenant, session)]:
            del self._slots[slot]

    def _of(self, tenant: TenantId, key: str) -> list[Announced]:
        return [each for each in self._slots.values() if each.key == key and each.tenant == tenant]

    def _slot(self, event: CallLikely | CallReady | CallIssued) -> Announced:
        slot = _slot_of(event)
        if slot not in self._slots:
            if len(self._slots) >= self._limit:
                self._forget_oldest()
            self._slots[slot] = Announced(event.tenant, event.session, event.time)
        return self._slots[slot]

    def _forget_oldest(self) -> None:
        oldest = next(iter(self._slots.values()))
        for slot, each in list(self._slots.items()):
            if each is oldest or (oldest.key is not None and (each.tenant, each.key) == (oldest.tenant, oldest.key)):
                del self._slots[slot]


def _slot_of(event: CallLikely | CallReady | CallIssued | CallAborted) -> _Slot:
    return (event.tenant, event.session, event.request, event.index)


def _only(sessions: set[SessionId]) -> SessionId | None:
    return next(iter(sessions)) if len(sessions) == 1 else None
