"""What an operator's words about a tool come to."""

import msgspec
import pytest

from sglang_paste.config import Policy
from sglang_paste.policy import does_write, is_pure, policy_of, why_not_early


@pytest.mark.parametrize(
    ("policy", "pure", "writes", "why"),
    [
        (Policy(), False, True, "not marked speculate"),
        (Policy(effect="write", speculate=True, observes="local"), False, True, "staged copy"),
        (Policy(effect="read", writes=("a",), speculate=True, observes="local"), False, True, "staged copy"),
        (Policy(effect="pure", writes=("a",), speculate=True, observes="local"), False, True, "staged copy"),
        (Policy(effect="read", speculate=True), False, False, "not marked disclose"),
        (Policy(effect="read", speculate=True, disclose=True), False, False, None),
        (Policy(effect="read", disclose=True), False, False, "not marked speculate"),
        (Policy(effect="read", speculate=True, observes="local"), False, False, None),
        (Policy(effect="pure", speculate=True, observes="local"), True, False, None),
        (Policy(effect="pure", reads=("a",), speculate=True, observes="local"), False, False, None),
    ],
)
def test_policy(policy: Policy, pure: bool, writes: bool, why: str | None) -> None:
    assert (is_pure(policy), does_write(policy)) == (pure, writes)
    reason = why_not_early(policy)
    assert reason is None if why is None else why in (reason or "")


def test_of_a_shell_calls_that_only_read_have_the_policy_of_a_tool_that_reads() -> None:
    shell = Policy(writes=("a",), speculate=True, observes="local", reads_when={"command": ("ls", "git log")})
    assert why_not_early(policy_of(shell, {"command": "ls -l | ls", "note": "x"})) is None
    assert policy_of(shell, {"command": "git log"}).writes == ()
    for arguments in ({"command": "rm x"}, {"command": ["ls"]}, {"comand": "ls"}, {}, {"command": "ls > a"}):
        assert does_write(policy_of(shell, arguments))
    both = msgspec.structs.replace(shell, reads_when={"command": ("ls",), "then": ("ls",)})
    assert does_write(policy_of(both, {"command": "ls", "then": "rm x"}))
    assert does_write(policy_of(msgspec.structs.replace(shell, reads_when={}), {"command": "ls"}))
