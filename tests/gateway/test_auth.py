"""Who gets in: tokens, tenants, and the pages of a browser."""

import pytest

from sglang_paste.config import Tenant
from sglang_paste.errors import ConfigError
from sglang_paste.gateway.auth import Auth, Caller
from sglang_paste.gateway.problems import Problem


def bearer(token: str, **more: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}", **more}


@pytest.fixture
def auth(monkeypatch: pytest.MonkeyPatch) -> Auth:
    monkeypatch.setenv("TOKEN_A", "token-of-a")
    monkeypatch.setenv("TOKEN_B", "token-of-b")
    return Auth("10.0.0.1", "key", {"a": Tenant(token_env="TOKEN_A"), "b": Tenant(token_env="TOKEN_B")})


def test_tokens_are_tenants(auth: Auth) -> None:
    assert auth.identify(bearer("key")) == Caller("default", True)
    assert auth.identify(bearer("token-of-a")) == Caller("a", False)
    assert auth.identify({"authorization": "bearer  token-of-b "}) == Caller("b", False)


@pytest.mark.parametrize(
    "authorization",
    ["", "Bearer", "Bearer ", "Bearer ke", "Bearer keyy", "Basic key", "key", "Bearer kéy", "Bearer \x00"],
)
def test_others_stay_out(auth: Auth, authorization: str) -> None:
    for headers in ({"authorization": authorization}, {"authorization": authorization, "x-tenant": "a"}):
        with pytest.raises(Problem) as found:
            auth.identify(headers)
        assert found.value.status == 401


def test_only_the_operator_acts_for_others(auth: Auth) -> None:
    assert auth.identify(bearer("key", **{"x-tenant": "c"})) == Caller("c", True)
    assert auth.identify(bearer("token-of-a", **{"x-tenant": "a"})) == Caller("a", False)
    for headers, status in (
        (bearer("token-of-a", **{"x-tenant": "b"}), 403),
        (bearer("key", **{"x-tenant": "c d"}), 400),
    ):
        with pytest.raises(Problem) as found:
            auth.identify(headers)
        assert found.value.status == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "127.0.0.1:30001"}, None),
        ({"host": "localhost"}, None),
        ({"host": "[::1]:30001"}, None),
        ({"host": "localhost:1", "origin": "http://localhost:3000"}, None),
        ({"host": "evil.example:30001"}, 421),
        ({"host": "127.0.0.1.evil.example"}, 421),
        ({"host": "["}, 421),
        ({}, 421),
        ({"host": "localhost:1", "origin": "https://evil.example"}, 403),
        ({"host": "localhost:1", "origin": "null"}, 403),
    ],
)
def test_without_a_token_pages_from_elsewhere_stay_out(headers: dict[str, str], status: int | None) -> None:
    auth = Auth("127.0.0.1", None, {})
    if status is None:
        assert auth.identify(headers) == Caller("default", True)
        return
    with pytest.raises(Problem) as found:
        auth.identify(headers)
    assert found.value.status == status


@pytest.mark.parametrize("host", ["::", "10.0.0.1", "example.org", ""])
def test_nobody_serves_the_world_without_a_token(host: str) -> None:
    with pytest.raises(ConfigError, match="API key"):
        Auth(host, None, {})
    Auth(host, "key", {})


def test_a_tenant_without_its_own_token_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKEN_A", raising=False)
    with pytest.raises(ConfigError, match="TOKEN_A"):
        Auth("127.0.0.1", "key", {"a": Tenant(token_env="TOKEN_A")})
    monkeypatch.setenv("TOKEN_A", "key")
    with pytest.raises(ConfigError, match="same token"):
        Auth("127.0.0.1", "key", {"a": Tenant(token_env="TOKEN_A")})
    with pytest.raises(ConfigError, match="tenant name"):
        Auth("127.0.0.1", None, {"a b": Tenant(token_env="TOKEN_A")})
    assert not Auth("10.0.0.1", None, {"a": Tenant(token_env="TOKEN_A")}).open
