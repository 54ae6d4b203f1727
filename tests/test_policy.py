"""What an operator's words about a tool come to."""

import pytest

from sglang_paste.config import Policy
from sglang_paste.policy import does_write, is_pure, why_not_early


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
