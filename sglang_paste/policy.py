"""What an operator's words about a tool come to: what it touches, and whether it may ever run early."""

from sglang_paste.config import Policy


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
