"""HTTP endpoints as tools."""

import functools
import json
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any
from urllib.parse import quote

import httpx

from sglang_paste.calls import Arguments, ToolCall, canonical
from sglang_paste.config import HttpTool
from sglang_paste.execute.base import Outcome
from sglang_paste.execute.process import readable
from sglang_paste.execute.runs import Gate, TaskRun
from sglang_paste.execute.secrets import expand

CONNECT_TIMEOUT_S = 10.0
MAX_REDIRECTS = 5
Pair = tuple[str, str | int | float | bool | None]

TEXT_TYPES = ("text/", "application/json", "application/xml", "application/javascript", "application/x-ndjson")


class HttpExecutor:
    """Calls one endpoint."""

    def __init__(self, name: str, tool: HttpTool) -> None:
        self._name = name
        self._tool = tool
        self._gate = Gate(tool.concurrency)
        self._client = httpx.AsyncClient(follow_redirects=False)

    async def open(self) -> None:
        """Look up the headers and make the client; raises ConfigError."""
        headers = expand(self._tool.headers, f"tools.{self._name}.headers")
        timeout = httpx.Timeout(None, connect=CONNECT_TIMEOUT_S)
        limits = httpx.Limits(max_connections=self._tool.concurrency)
        await self._client.aclose()
        # The calls of all tenants go through one client: it keeps no cookies.
        cookies = CookieJar(DefaultCookiePolicy(allowed_domains=()))
        self._client = httpx.AsyncClient(
            headers=headers, timeout=timeout, limits=limits, follow_redirects=False, cookies=cookies
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    def check(self, arguments: Arguments) -> None:
        """The schema says it all."""

    def launch(self, call: ToolCall, *, speculative: bool) -> TaskRun:
        """Send the request."""
        body = functools.partial(self._run, call)
        return TaskRun(self._name, body, gate=self._gate, timeout_s=self._tool.timeout_s, speculative=speculative)

    async def _run(self, call: ToolCall, _run: TaskRun) -> Outcome:
        try:
            return await self._exchange(self._request(call))
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            return Outcome(failure="unavailable", content=f"{self._name} cannot be reached: {_words(error)}")
        except httpx.HTTPError as error:
            return Outcome(failure="crashed", content=f"{self._name} did not answer properly: {_words(error)}")

    def _request(self, call: ToolCall) -> httpx.Request:
        headers = {}
        if self._tool.session_header is not None and call.session is not None:
            headers[self._tool.session_header] = quote(call.session)
        if self._tool.method == "GET":
            url = httpx.URL(self._tool.url)
            params = [*url.params.multi_items(), *_query(call.arguments)]
            return self._client.build_request("GET", url, params=params, headers=headers)
        headers["Content-Type"] = "application/json"
        content = canonical(call.arguments).encode()
        return self._client.build_request("POST", self._tool.url, content=content, headers=headers)

    async def _exchange(self, request: httpx.Request) -> Outcome:
        for _ in range(MAX_REDIRECTS):
            response = await self._client.send(request, stream=True)
            try:
                following = response.next_request
                if following is None or not _same_place(request, following):
                    return await self._read(response)
                request = following
            finally:
                await response.aclose()
        return Outcome(content=f"{self._name} redirected more than {MAX_REDIRECTS} times", is_error=True)

    async def _read(self, response: httpx.Response) -> Outcome:
        limit = self._tool.output_limit
        kept = bytearray()
        async for chunk in response.aiter_bytes():
            kept += chunk[: limit + 1 - len(kept)]
            if len(kept) > limit:
                break
        truncated = len(kept) > limit
        data = bytes(kept[:limit])
        text = _body(response, data, cut=truncated)
        if not response.is_success:
            place = response.headers.get("location")
            where = f" to {place}, which is not followed" if response.has_redirect_location else ""
            content = f"HTTP {response.status_code} {response.reason_phrase}{where}\n{text}".strip()
            return Outcome(content=content, is_error=True, truncated=truncated)
        return Outcome(content=text, truncated=truncated, structured=None if truncated else _structure(response, text))


def _query(arguments: Arguments) -> list[Pair]:
    """Arrays repeat their name; what is null is left out; the rest is text or JSON."""
    pairs: list[Pair] = []
    for name, value in arguments.items():
        for element in value if isinstance(value, list) else [value]:
            if element is not None:
                pairs.append((name, element if isinstance(element, str) else canonical(element)))
    return pairs


def _same_place(before: httpx.Request, after: httpx.Request) -> bool:
    """A redirect is followed only to where the headers were meant for, and with the same method."""
    old, new = before.url, after.url
    upgrade = old.scheme == "http" and new.scheme == "https" and old.port is None and new.port is None
    same = (old.scheme, old.port) == (new.scheme, new.port) or upgrade
    return same and old.host == new.host and before.method == after.method


def _media_type(response: httpx.Response) -> str:
    return str(response.headers.get("content-type", "text/plain")).partition(";")[0].strip().lower()


def _body(response: httpx.Response, data: bytes, *, cut: bool) -> str:
    media_type = _media_type(response)
    if not media_type.startswith(TEXT_TYPES) and not media_type.endswith(("+json", "+xml")):
        return f"[{media_type}, {len(data)} bytes{' or more' if cut else ''}]" if data else ""
    charset = response.charset_encoding
    if charset and charset.lower().replace("_", "-") not in ("utf-8", "utf8"):
        try:
            return data.decode(charset, "replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
        except LookupError:
            pass
    return readable(data, cut=cut)


def _structure(response: httpx.Response, text: str) -> Any:
    if not _media_type(response).endswith("json"):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
