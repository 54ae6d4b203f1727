"""What an operator's words about a tool come to: what it touches, and whether it may ever run early."""

from typing import TypeVar

import msgspec

from sglang_paste.calls import Arguments
from sglang_paste.command_line import only_reads
from sglang_paste.config import Policy

SomePolicy = TypeVar("SomePolicy", bound=Policy | None)


def policy_of(policy: SomePolicy, arguments: Arguments) -> SomePolicy:
    """The policy of one call: that of a tool that reads, where `reads_when` says so, else the tool's own."""
    if policy is None or not policy.reads_when:
        return policy
    if not all(only_reads(arguments.get(name), commands) for name, commands in policy.reads_when.items()):
        return policy
    return msgspec.structs.replace(policy, effect="read", writes=())


def is_pure(policy: Policy) -> bool:
    """Whether a result is true for ever and for everybody: nothing is read, nothing is written."""
    return policy.effect == "pure" and not policy.reads and not policy.writes


def does_write(policy: Policy) -> bool:
    """Whether a call changes anything; a `read` with declared `writes` does."""
    return policy.effect == "write" or bool(policy.writes)


def why_not_early(policy: Policy) -> str | None:
    """Why the tool never runs before it is asked for, in one clause, or None where it may."""
    if not policy.speculate:
        return "it is not marked speculate = true"
    if does_write(policy):
        return "it writes, and writing ahead into a staged copy is not offered yet"
    if policy.observes == "external" and not policy.disclose:
        return 'it is seen outside (observes = "external") and not marked disclose = true'
    return None
