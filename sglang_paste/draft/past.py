"""Calls as the model wrote them, kept for later calls of the same tools in the same tenant."""

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from sglang_paste.calls import TenantId
from sglang_paste.draft.render import Frame

MAX_TENANTS = 64
MAX_TENANT_TOKENS = 256 * 1024
MAX_CALLS = 16
MAX_CALL_TOKENS = 1024


class Written(NamedTuple):
    """A call as it was written: its ids in the model's own tokenisation, and its arguments as JSON text."""

    tokens: "array[int]"
    arguments: str


class _Tenant:
    def __init__(self) -> None:
        self.tools: OrderedDict[str, OrderedDict[bytes, Written]] = OrderedDict()
        self.tokens = 0
        self.frame: Frame | None = None

    def add(self, tool: str, written: Written) -> None:
        calls = self.tools.setdefault(tool, OrderedDict())
        self.tools.move_to_end(tool)
        known = calls.pop(key := written.tokens.tobytes(), None)
        calls[key] = written
        self.tokens += 0 if known else len(written.tokens)
        if len(calls) > MAX_CALLS:
            self.tokens -= len(calls.popitem(last=False)[1].tokens)
        while self.tokens > MAX_TENANT_TOKENS:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        tool, calls = next(iter(self.tools.items()))
        self.tokens -= len(calls.popitem(last=False)[1].tokens)
        if not calls:
            del self.tools[tool]


class Past:
    """What each tenant's models wrote lately. Bounded in tenants, and for each in calls and tokens; those used least
    lately go first. Nothing of one tenant is ever given to another."""

    def __init__(self) -> None:
        self._tenants: OrderedDict[TenantId, _Tenant] = OrderedDict()

    def add(self, tenant: TenantId, tool: str, tokens: Sequence[int], arguments: str) -> None:
        """A call was written; one that is too long is not kept."""
        if not 0 < len(tokens) <= MAX_CALL_TOKENS:
            return
        kept = self._tenants.setdefault(tenant, _Tenant())
        self._tenants.move_to_end(tenant)
        kept.add(tool, Written(array("i", tokens), arguments))
        if len(self._tenants) > MAX_TENANTS:
            self._tenants.popitem(last=False)

    def use(self, tenant: TenantId, frame: Frame) -> None:
        """How the tenant's model wrote its last call."""
        kept = self._tenants.get(tenant)
        if kept is not None:
            kept.frame = frame

    def frame(self, tenant: TenantId) -> Frame | None:
        """How the tenant's model writes its calls, where it has shown that."""
        kept = self._tenants.get(tenant)
        return kept.frame if kept else None

    def calls(self, tenant: TenantId, tool: str) -> list[Written]:
        """The calls of a tool, the newest first."""
        kept = self._tenants.get(tenant)
        return list(reversed(kept.tools.get(tool, {}).values())) if kept else []

    def tools(self, tenant: TenantId) -> list[str]:
        """The tools called, the newest first."""
        kept = self._tenants.get(tenant)
        return list(reversed(kept.tools)) if kept else []
