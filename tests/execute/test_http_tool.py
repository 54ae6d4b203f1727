import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest
from tool_bench import Bench, launch

from sglang_paste.calls import DEFAULT_TENANT, SessionId, ToolCall
from sglang_paste.errors import ConfigError
from sglang_paste.execute.catalog import Catalog

HEAD = 'kind = "http"\nparameters = {type = "object"}\n'
Handler = Callable[[str, dict[str, str], bytes, asyncio.StreamWriter], Awaitable[None]]


async def answer(line: str, headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter) -> None:
    """A small server: each path is one behaviour."""
    path = line.split(" ")[1].partition("?")[0]
    if path == "/echo":
        told = {"line": line, "body": body.decode(), "auth": headers.get("authorization")}
        await reply(writer, json.dumps({**told, "session": headers.get("x-run")}))
    elif path == "/away":
        await reply(writer, "", status="302 Found", extra="Location: http://localhost:1/secret\r\n")
    elif path == "/here":
        await reply(writer, "", status="307 Temporary Redirect", extra="Location: /echo\r\n")
    elif path == "/round":
        await reply(writer, "", status="307 Temporary Redirect", extra="Location: /round\r\n")
    elif path == "/missing":
        await reply(writer, "no such é", status="404 Not Found", kind="text/plain; charset=utf-8")
    elif path == "/cookie":
        await reply(writer, headers.get("cookie", "none"), extra="Set-Cookie: who=me; Path=/\r\n", kind="text/plain")
    elif path == "/image":
        await reply(writer, "12345", kind="image/png")
    elif path == "/huge":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100000000000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"x" * 65_536)
            await writer.drain()
    elif path == "/drop":
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    elif path == "/hang":
        await asyncio.sleep(1000)


async def reply(
    writer: asyncio.StreamWriter, text: str, *, status: str = "200 OK", extra: str = "", kind: str = "application/json"
) -> None:
    body = text.encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
    writer.write(head.encode() + body)
    await writer.drain()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        await answer(head[0], headers, body, writer)
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


def use(bench: Bench, toml: str, scenario: Callable[[Catalog], Awaitable[None]]) -> None:
    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        catalog = bench.catalog(toml.replace("PORT", str(port)))
        async with server:
            await catalog.open()
            try:
                await scenario(catalog)
            finally:
                await catalog.close()

    async def bounded() -> None:
        async with asyncio.timeout(60):
            await main()

    asyncio.run(bounded())


def tool(path: str, **settings: str) -> str:
    name = path.strip("/").partition("?")[0]
    extra = "".join(f"{key} = {value}\n" for key, value in settings.items())
    return f'[tools.{name}]\n{HEAD}url = "http://127.0.0.1:PORT{path}"\n{extra}'


def test_post_sends_json_and_get_a_query(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "t0ken")

    async def post(catalog: Catalog) -> None:
        outcome = await launch(catalog, "echo", a="é", n=2**70).wait()
        assert outcome.structured["body"] == f'{{"a":"é","n":{2**70}}}'
        assert outcome.structured["auth"] == "Bearer t0ken"

    async def get(catalog: Catalog) -> None:
        outcome = await launch(catalog, "echo", a="x y&z", b=True, c=[1, 2], d=None, e={"k": 1}).wait()
        query = outcome.structured["line"].split(" ")[1]
        assert query == "/echo?fixed=1&a=x+y%26z&b=true&c=1&c=2&e=%7B%22k%22%3A1%7D"

    use(bench, tool("/echo", headers='{Authorization = "Bearer ${MY_TOKEN}"}'), post)
    use(bench, tool("/echo?fixed=1", method='"GET"'), get)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_session_is_told_where_the_tool_asks_for_it(bench: Bench, method: str) -> None:
    async def told(catalog: Catalog, session: str | None) -> str | None:
        named = None if session is None else SessionId(session)
        call = ToolCall(tenant=DEFAULT_TENANT, session=named, tool="echo", arguments={})
        outcome = await catalog.launch(call, speculative=True).wait()
        return outcome.structured["session"]  # type: ignore[no-any-return]

    async def asked(catalog: Catalog) -> None:
        assert await told(catalog, "süß\r\nx-evil: 1") == "s%C3%BC%C3%9F%0D%0Ax-evil%3A%201"
        assert await told(catalog, None) is None

    async def silent(catalog: Catalog) -> None:
        assert await told(catalog, "s") is None

    use(bench, tool("/echo", method=f'"{method}"', session_header='"X-Run"'), asked)
    use(bench, tool("/echo", method=f'"{method}"'), silent)


def test_what_one_call_is_given_to_keep_no_other_sends(bench: Bench) -> None:
    async def scenario(catalog: Catalog) -> None:
        for _ in range(2):
            assert (await launch(catalog, "cookie").wait()).content == "none"

    use(bench, tool("/cookie"), scenario)


def test_what_is_no_success_is_an_error_with_its_body(bench: Bench) -> None:
    async def scenario(catalog: Catalog) -> None:
        missing = await launch(catalog, "missing").wait()
        assert (missing.content, missing.is_error, missing.failure) == ("HTTP 404 Not Found\nno such é", True, None)
        away = await launch(catalog, "away").wait()
        assert away.content == "HTTP 302 Found to http://localhost:1/secret, which is not followed"
        here = await launch(catalog, "here", a=1).wait()
        assert here.structured["body"] == '{"a":1}'
        assert "redirected more than" in (await launch(catalog, "round").wait()).content
        assert (await launch(catalog, "image").wait()).content == "[image/png, 5 bytes]"

    use(bench, "".join(map(tool, ("/missing", "/away", "/here", "/round", "/image"))), scenario)


def test_what_is_endless_broken_or_silent_is_bounded(bench: Bench) -> None:
    async def scenario(catalog: Catalog) -> None:
        huge = await launch(catalog, "huge").wait()
        assert huge.truncated
        assert len(huge.content) == 1000
        assert (await launch(catalog, "drop").wait()).failure == "crashed"
        assert (await launch(catalog, "hang").wait()).failure == "timeout"
        run = launch(catalog, "hang")
        await run.cancel()
        assert (await run.wait()).failure == "cancelled"
        closed = await launch(catalog, "closed").wait()
        assert closed.failure == "unavailable"
        assert "cannot be reached" in closed.content

    toml = tool("/huge", output_limit="1000") + tool("/drop") + tool("/hang", timeout_s="0.2")
    use(bench, toml + tool("/closed").replace("PORT", "9"), scenario)


def test_a_header_that_is_not_set_refuses_the_start(bench: Bench) -> None:
    async def never(_: Catalog) -> None:
        raise AssertionError("it opened")

    with pytest.raises(ConfigError, match=r"tools\.echo\.headers refers to \$\{UNSET_TOKEN\}, which is not set"):
        use(bench, tool("/echo", headers='{A = "${UNSET_TOKEN}"}'), never)
