"""Past calls are kept in bounds, the newest first, each tenant's for itself."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_paste.calls import TenantId
from sglang_paste.draft import past
from sglang_paste.draft.past import MAX_CALL_TOKENS, MAX_CALLS, MAX_TENANTS, Past
from sglang_paste.draft.render import Frame, Style

A, B = TenantId("a"), TenantId("b")
FRAME = Frame("<", ">", ";", Style())

added = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c"]), st.sampled_from(["x", "y"]), st.lists(st.integers(0, 9), max_size=4)),
    max_size=60,
)


class OneForAll(Past):
    """A broken one: it forgets whose the calls are."""

    def add(self, tenant: TenantId, tool: str, tokens: object, arguments: str) -> None:
        super().add(A, tool, tokens, arguments)  # type: ignore[arg-type]

    def calls(self, tenant: TenantId, tool: str) -> list[past.Written]:
        return super().calls(A, tool)


def foreign(steps: list[tuple[str, str, list[int]]], make: Callable[[], Past]) -> list[str]:
    """What of it any tenant is given that it did not write, by its arguments."""
    kept = make()
    for tenant, tool, tokens in steps:
        kept.add(TenantId(tenant), tool, tokens, f"{tenant}{tokens}")
    mine = [(tenant, call) for tenant in "abc" for tool in "xy" for call in kept.calls(TenantId(tenant), tool)]
    return [call.arguments for tenant, call in mine if not call.arguments.startswith(tenant)]


@given(added)
def test_no_tenant_is_given_what_another_wrote(steps: list[tuple[str, str, list[int]]]) -> None:
    assert foreign(steps, Past) == []


def test_one_that_forgets_the_tenant_is_caught() -> None:
    assert foreign([("a", "x", [1]), ("b", "x", [2])], OneForAll)


@given(added)
def test_each_tenant_has_its_last_calls_newest_first(steps: list[tuple[str, str, list[int]]]) -> None:
    kept = Past()
    for tenant, tool, tokens in steps:
        kept.add(TenantId(tenant), tool, tokens, "{}")
    for tenant in "abc":
        for tool in "xy":
            wrote = [tuple(tokens) for whose, what, tokens in steps if (whose, what) == (tenant, tool) and tokens]
            newest = list(dict.fromkeys(reversed(wrote)))[:MAX_CALLS]
            found = [tuple(call.tokens) for call in kept.calls(TenantId(tenant), tool)]
            assert found == newest[: len(found)]
            assert len(found) == len(newest) or len(wrote) > MAX_CALLS


def test_a_tenant_keeps_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Past()
    monkeypatch.setattr(past, "MAX_TENANT_TOKENS", 10)
    kept.add(A, "x", [1] * 4, "{}")
    kept.add(A, "y", [2] * 4, "{}")
    kept.add(A, "x", [3] * 4, "{}")
    assert [call.tokens[0] for call in kept.calls(A, "x")] == [3, 1]
    assert kept.calls(A, "y") == []
    kept.add(A, "y", [4] * 6, "{}")
    assert [call.tokens[0] for call in kept.calls(A, "x")] == [3]
    assert kept.tools(A) == ["y", "x"]


def test_a_call_that_is_empty_or_too_long_is_not_kept() -> None:
    kept = Past()
    kept.add(A, "x", [], "{}")
    kept.add(A, "x", [1] * (MAX_CALL_TOKENS + 1), "{}")
    assert kept.calls(A, "x") == []


def test_the_tenant_heard_of_least_lately_goes() -> None:
    kept = Past()
    for number in range(MAX_TENANTS + 1):
        kept.add(TenantId(str(number)), "x", [number], "{}")
    assert kept.calls(TenantId("0"), "x") == []
    assert len(kept.calls(TenantId("1"), "x")) == 1


def test_how_calls_are_written_is_the_tenants_own() -> None:
    kept = Past()
    kept.use(B, FRAME)
    kept.add(A, "x", [1], "{}")
    kept.use(A, FRAME)
    assert (kept.frame(A), kept.frame(B)) == (FRAME, None)
