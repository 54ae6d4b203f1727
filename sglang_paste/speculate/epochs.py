"""What calls read and write, and when it was written last."""

import msgspec

from sglang_paste.calls import SessionId, TenantId
from sglang_paste.config import Policy
from sglang_paste.policy import does_write, is_pure

SESSION_PREFIX = "session:"


class Footprint(msgspec.Struct, frozen=True, kw_only=True):
    """The resources a call touches; None stands for all. `session` is None where nobody knows whose call it is,
    and then a session's own resource is that of every session of the tenant."""

    tenant: TenantId
    session: SessionId | None
    resources: frozenset[str] | None

    def meets(self, other: "Footprint") -> bool:
        """Whether both touch one thing."""
        return self._meets_shared(other) or (self._same_session(other) and self._meets_own(other))

    def _same_session(self, other: "Footprint") -> bool:
        same = self.session is None or other.session is None or self.session == other.session
        return same and self.tenant == other.tenant

    def _meets_shared(self, other: "Footprint") -> bool:
        mine, theirs = _part(self.resources, own=False), _part(other.resources, own=False)
        return _overlap(mine, theirs)

    def _meets_own(self, other: "Footprint") -> bool:
        return _overlap(_part(self.resources, own=True), _part(other.resources, own=True))


def reads_of(policy: Policy, tenant: TenantId, session: SessionId | None) -> Footprint:
    """What a call reads: what it declares; nothing for a pure tool, everything where nothing is declared."""
    declared = frozenset(policy.reads) if policy.reads or is_pure(policy) else None
    return Footprint(tenant=tenant, session=session, resources=declared)


def writes_of(policy: Policy | None, tenant: TenantId, session: SessionId | None) -> Footprint | None:
    """What a call writes: None where it writes nothing; everything where nothing is declared or nothing is known of
    the tool."""
    if policy is not None and not does_write(policy):
        return None
    declared = frozenset(policy.writes) if policy is not None and policy.writes else None
    return Footprint(tenant=tenant, session=session, resources=declared)


def _part(resources: frozenset[str] | None, *, own: bool) -> frozenset[str] | None:
    if resources is None:
        return None
    return frozenset(name for name in resources if name.startswith(SESSION_PREFIX) is own)


def _overlap(mine: frozenset[str] | None, theirs: frozenset[str] | None) -> bool:
    """Whether two parts share a name. Everything meets everything, and each name, but not nothing."""
    if mine is None:
        return theirs is None or bool(theirs)
    return bool(mine) if theirs is None else not mine.isdisjoint(theirs)
