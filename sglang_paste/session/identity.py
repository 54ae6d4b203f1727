"""Sessions without the client's help.

A request belongs to the session that, in this order,
1. the client named;
2. issued the latest call id in the conversation that only one session issued;
3. gave exactly this conversation its latest answer, where only one session did;
and otherwise to a new one. So a branch, or an agent started from another's history, shares the session of the history
it continues; two conversations that have not differed yet are never taken for one.
"""

import secrets
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

from sglang_paste.calls import SessionId, TenantId
from sglang_paste.session.message import Message, digest

REMEMBERED = 65_536

# Several sessions own the key, so that it tells nothing.
_AMBIGUOUS = SessionId("")


class Sessions:
    """Remembers call ids and answers, the last `capacity` of each. Thread-safe."""

    def __init__(self, capacity: int = REMEMBERED) -> None:
        self._calls = _Owners(capacity)
        self._answers = _Owners(capacity)
        self._returned = _Owners(capacity)
        self._told: OrderedDict[tuple[TenantId, SessionId], _Told] = OrderedDict()
        self._capacity = capacity
        self._lock = threading.Lock()

    def resolve(self, tenant: TenantId, messages: Sequence[Message], named: str | None = None) -> SessionId:
        """The session a request with these messages belongs to."""
        if named:
            return SessionId(named)
        with self._lock:
            return self._by_call(tenant, messages) or self._by_answer(tenant, messages) or _new()

    def issued(self, tenant: TenantId, session: SessionId, call_id: str) -> None:
        """The API gave a call of the session this id."""
        with self._lock:
            self._calls.add((tenant, call_id), session)

    def answered(self, tenant: TenantId, session: SessionId, messages: Iterable[Message], answer: Message) -> None:
        """The session's request with these messages got this answer."""
        mark = _digest(tenant, (*messages, answer))
        with self._lock:
            self._answers.add((tenant, mark), session)

    def returned(self, tenant: TenantId, session: SessionId, call_id: str) -> bool:
        """Note that a call's result came back; false where that is known already."""
        with self._lock:
            return self._returned.add((tenant, session, call_id), session)

    def fresh(self, tenant: TenantId, session: SessionId, messages: Sequence[Message]) -> list[Message]:
        """The messages the session did not have at its last request. Where its past was rewritten, or is not known:
        how it began, and its last answer with what came since."""
        if not messages:
            return []
        key = (tenant, session)
        with self._lock:
            known = self._told.pop(key, None)
            self._told[key] = _Told(len(messages), digest(b"", messages[-1]))
            if len(self._told) > self._capacity:
                self._told.popitem(last=False)
        if known is not None and known.size <= len(messages) and digest(b"", messages[known.size - 1]) == known.mark:
            rest = messages[known.size :]
            return list(rest[1:] if rest and rest[0].content and _said(rest[0].content) == known.answer else rest)
        answers = [place for place, message in enumerate(messages) if message.role == "assistant"]
        start = answers[-1] if answers else 0
        beginning = next((place + 1 for place, message in enumerate(messages) if message.role == "user"), start)
        return [*messages[: min(beginning, start)], *messages[start:]]

    def told(self, tenant: TenantId, session: SessionId, answer: str) -> None:
        """The text of the answer to the session's latest request is known, and need not be fresh in the next."""
        with self._lock:
            known = self._told.get((tenant, session))
            if known is not None:
                self._told[tenant, session] = known._replace(answer=_said(answer))

    def _by_call(self, tenant: TenantId, messages: Sequence[Message]) -> SessionId | None:
        for message in reversed(messages):
            for call_id in (*(call.call_id for call in reversed(message.calls)), message.answers):
                owner = self._calls.get((tenant, call_id)) if call_id else None
                if owner:
                    return owner
        return None

    def _by_answer(self, tenant: TenantId, messages: Sequence[Message]) -> SessionId | None:
        mark, owner = _seed(tenant), None
        for message in messages:
            mark = digest(mark, message)
            if message.role == "assistant":
                known = self._answers.get((tenant, mark))
                owner = known if known is not None else owner
        return owner or None


class _Told(NamedTuple):
    """How many messages a session's latest request had, the digest of the last, and that of the answer."""

    size: int
    mark: bytes
    answer: bytes = b""


class _Owners:
    """Keys and the one session each belongs to; the longest unused go first."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._owners: OrderedDict[Hashable, SessionId] = OrderedDict()

    def get(self, key: Hashable) -> SessionId | None:
        owner = self._owners.get(key)
        if owner is not None:
            self._owners.move_to_end(key)
        return owner

    def add(self, key: Hashable, session: SessionId) -> bool:
        """False where the key was known."""
        owner = self._owners.get(key)
        self._owners[key] = session if owner in (None, session) else _AMBIGUOUS
        self._owners.move_to_end(key)
        if len(self._owners) > self._capacity:
            self._owners.popitem(last=False)
        return owner is None


def _said(answer: str) -> bytes:
    return digest(b"", Message(role="assistant", content=answer))


def _new() -> SessionId:
    return SessionId(f"auto-{secrets.token_hex(12)}")


def _seed(tenant: TenantId) -> bytes:
    return tenant.encode("utf-8", "surrogatepass")[:64]


def _digest(tenant: TenantId, messages: Iterable[Message]) -> bytes:
    mark = _seed(tenant)
    for message in messages:
        mark = digest(mark, message)
    return mark
