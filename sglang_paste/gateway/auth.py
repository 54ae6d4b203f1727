"""Who is asking: bearer tokens to tenants, compared in constant time, and which browsers may knock."""

import hmac
import os
import re
from collections.abc import Mapping
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

from sglang_paste.calls import DEFAULT_TENANT, TenantId
from sglang_paste.config import Tenant
from sglang_paste.errors import ConfigError
from sglang_paste.gateway.problems import Problem

TENANT_HEADER = "x-tenant"
_TENANT_NAME = re.compile(r"[A-Za-z0-9._:@-]{1,128}")


class Caller(NamedTuple):
    """A tenant, and whether the caller is the operator, who may act for any tenant and read the metrics."""

    tenant: TenantId
    operator: bool


class Auth:
    """Tells callers apart. Raises ConfigError for a set-up that would let anybody in from outside."""

    def __init__(self, host: str, api_key: str | None, tenants: Mapping[str, Tenant]) -> None:
        self._host = host
        self._tokens: list[tuple[bytes, Caller]] = []
        if api_key:
            self._tokens.append((api_key.encode(), Caller(DEFAULT_TENANT, operator=True)))
        for name, tenant in tenants.items():
            self._tokens.append((_token(name, tenant), Caller(TenantId(name), operator=False)))
        if len({token for token, _ in self._tokens}) != len(self._tokens):
            raise ConfigError("two tenants have the same token, or one has the API key; give each its own")
        self.open = not self._tokens
        if self.open and not is_loopback(host):
            raise ConfigError(
                f"the gateway would serve anybody on {host!r}; set an API key, or keep it on a loopback address"
            )

    def identify(self, headers: Mapping[str, str]) -> Caller:
        """The caller; raises Problem (401, 403) for who has no business here."""
        caller = self._open_caller(headers) if self.open else self._known(headers.get("authorization", ""))
        wanted = headers.get(TENANT_HEADER)
        if wanted is None or wanted == caller.tenant:
            return caller
        if not caller.operator:
            raise Problem(403, "forbidden", f"this token cannot act for the tenant {wanted[:64]!r}")
        if not _TENANT_NAME.fullmatch(wanted):
            raise Problem(400, "bad_request", f"the header {TENANT_HEADER} is {wanted[:64]!r}; send a tenant's name")
        return Caller(TenantId(wanted), operator=True)

    def _known(self, authorization: str) -> Caller:
        scheme, _, token = authorization.partition(" ")
        given = token.strip().encode("latin-1", "replace") if scheme.lower() == "bearer" else b""
        found = None
        # Every token is compared, so that the time tells nothing about which one was near.
        for known, caller in self._tokens:
            if hmac.compare_digest(known, given):
                found = caller
        if found is None:
            raise Problem(401, "unauthorized", "the bearer token is missing or unknown; send Authorization: Bearer")
        return found

    def _open_caller(self, headers: Mapping[str, str]) -> Caller:
        """Without tokens only this machine is served, and not a web page that a browser on it has open."""
        if not self._is_ours(_hostname(f"//{headers.get('host', '')}")):
            raise Problem(421, "forbidden", f"the Host header is {headers.get('host', '')[:64]!r}; use a loopback name")
        origin = headers.get("origin")
        if origin is not None and not self._is_ours(_hostname(origin)):
            raise Problem(403, "forbidden", f"pages of {origin[:64]!r} may not use a gateway without a token")
        return Caller(DEFAULT_TENANT, operator=True)

    def _is_ours(self, name: str | None) -> bool:
        return name is not None and (name == self._host or is_loopback(name))


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _token(name: str, tenant: Tenant) -> bytes:
    if not _TENANT_NAME.fullmatch(name):
        raise ConfigError(f"the tenant name {name!r} cannot be used; take letters, digits and . _ : @ -")
    token = os.environ.get(tenant.token_env, "")
    if not token:
        raise ConfigError(f"the token of tenant {name!r} is not set; put it in the environment as {tenant.token_env}")
    return token.encode()
