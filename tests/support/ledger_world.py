"""The world of the ledger's random test: who asks for what, what it touches, what really happened."""

from typing import Any, NamedTuple

import msgspec

from sglang_paste.calls import ToolCall
from sglang_paste.config import Limits, Policy
from sglang_paste.execute.base import Outcome
from sglang_paste.speculate.entries import Entry
from sglang_paste.speculate.epochs import Footprint
from sglang_paste.speculate.ledger import ENTRY_BYTES

TENANTS = ("red", "blue")
SESSIONS = ("one", "two")
POLICIES = {
    "pure": Policy(effect="pure", observes="local", speculate=True, inert=("note",), concurrency=2),
    "repo": Policy(effect="read", observes="local", speculate=True, reads=("repo",), concurrency=2),
    "notes": Policy(effect="read", observes="local", speculate=True, reads=("session:notes",), concurrency=2),
    "anything": Policy(effect="read", observes="external", speculate=True, disclose=True),
    "commit": Policy(effect="write", writes=("repo",)),
    "jot": Policy(effect="write", writes=("session:notes",)),
    "shell": Policy(effect="write"),
}
EARLY = ("pure", "repo", "notes", "anything")
LIMITS = Limits(speculative=3, per_session=2, per_tool=2, result_ttl_s=60.0, results_bytes=4 * ENTRY_BYTES)
NEXT_STATES = {
    "queued": {"running", "claimed", "squashed", "expired", "cancelled"},
    "running": {"ready", "claimed", "squashed", "failed", "cancelled"},
    "ready": {"claimed", "squashed", "expired", "cancelled"},
}
Cells = frozenset[tuple[str, ...]]


def cells(kind: str, tool: str, tenant: str, session: str) -> Cells:
    """What a call reads or writes, cell by cell."""
    own = {("notes", tenant, session), ("rest", tenant, session)}
    shared = {("repo",), ("web",)}
    table = {
        ("read", "repo"): {("repo",)},
        ("read", "notes"): {("notes", tenant, session)},
        ("read", "anything"): own | shared,
        ("write", "commit"): {("repo",)},
        ("write", "jot"): {("notes", tenant, session)},
        ("write", "shell"): own | shared,
        ("write", "theirs"): own | shared,
    }
    return frozenset(table.get((kind, tool), set()))


class Asked(msgspec.Struct, eq=False):
    """A call that a session's model really made; `true_session` is a fact that its client may not tell."""

    tenant: str
    true_session: str
    tool: str
    arguments: dict[str, Any]
    request: str
    index: int
    call_id: str | None
    answer: Outcome | None = None
    sent: ToolCall | None = None
    executions: int = 0


class Spec(msgspec.Struct, eq=False):
    """A speculative run as the world saw it."""

    entry: Entry
    last_state: str = "queued"
    began: int | None = None
    produced: Outcome | None = None
    produced_at: int | None = None
    joined: bool = False
    hand_outs: int = 0


class Write(msgspec.Struct, eq=False):
    cells: Cells
    began: int
    ended: int | None = None


class Own(NamedTuple):
    """An authoritative run at work."""

    asked: Asked
    footprint: Footprint | None
    write: Write | None


def same_call(asked: Asked, entry: Entry) -> bool:
    def vital(arguments: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in arguments.items() if name not in POLICIES[asked.tool].inert}

    same_tool = (asked.tenant, asked.tool) == (entry.tenant, entry.tool)
    return same_tool and vital(asked.arguments) == vital(entry.arguments)
