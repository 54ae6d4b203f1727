"""The gateway over HTTP: tools as JSON endpoints, the state of the side process, and MCP under /mcp."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
import msgspec
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from sglang_paste.calls import MAX_ARGUMENT_BYTES, SessionId, ToolCall, parse_arguments
from sglang_paste.errors import CallError
from sglang_paste.gateway.api import Answer, Desk, Ticket
from sglang_paste.gateway.auth import Auth, Caller
from sglang_paste.gateway.problems import Problem, problem_of, problem_of_failure

MAX_BODY_BYTES = MAX_ARGUMENT_BYTES + 64 * 1024
MAX_NAME_CHARS = 512
MAX_CALLS = 512
BODY_SECONDS = 30.0

Handler = Callable[[Request], Awaitable[Response]]


class CallRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /v1/tools/{name}. The arguments stay text until they are read as the engine reads them."""

    arguments: msgspec.Raw = msgspec.Raw(b"{}")
    session: str | None = None
    call_id: str | None = None


class Gateway:
    """The routes. Every request but the health check is authenticated first."""

    def __init__(self, desk: Desk, auth: Auth, mcp: ASGIApp | None = None, *, max_calls: int = MAX_CALLS) -> None:
        self._desk = desk
        self._auth = auth
        self._mcp = mcp
        self._limit = max_calls
        self._calls = 0

    def app(self, lifespan: Callable[[Starlette], AbstractAsyncContextManager[None]] | None = None) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/v1/tools", self._answered(self._list), methods=["GET"]),
            Route("/v1/tools/{name:path}", self._answered(self._call), methods=["POST"]),
            Route("/v1/spans", self._answered(self._spans), methods=["GET"]),
            Route("/health", self._health, methods=["GET"]),
            Route("/metrics", self._answered(self._metrics), methods=["GET"]),
        ]
        if self._mcp is not None:
            routes.append(Route("/mcp", _Guarded(self._auth, self._mcp, self._desk)))
        return Starlette(
            routes=routes,
            lifespan=lifespan,
            exception_handlers={404: _no_such_path, 405: _no_such_method, Exception: _our_fault},
        )

    async def _list(self, request: Request, caller: Caller) -> Response:
        return _json({"tools": [msgspec.structs.asdict(offer) for offer in self._desk.offers()]})

    async def _spans(self, request: Request, caller: Caller) -> Response:
        return _json({"spans": [msgspec.structs.asdict(span) for span in self._desk.spans(caller.tenant)]})

    async def _metrics(self, request: Request, caller: Caller) -> Response:
        if not caller.operator:
            raise Problem(403, "forbidden", "the metrics are the operator's; use the API key")
        return Response(self._desk.metrics(), media_type="text/plain; version=0.0.4")

    async def _health(self, request: Request) -> Response:
        return _json(msgspec.structs.asdict(self._desk.health()))

    async def _call(self, request: Request, caller: Caller) -> Response:
        if self._calls >= self._limit:
            raise Problem(503, "unavailable", f"{self._limit} calls are already under way; try again later")
        self._calls += 1
        try:
            call = read_call(request.path_params["name"], caller, await _body(request))
            answer = await answered(self._desk.call(call), request.receive)
        finally:
            self._calls -= 1
        return _result(answer)

    def _answered(self, handler: Callable[[Request, Caller], Awaitable[Response]]) -> Handler:
        """`handler` behind authentication, with every refusal as JSON and counted."""

        async def endpoint(request: Request) -> Response:
            try:
                try:
                    return await handler(request, self._auth.identify(request.headers))
                except CallError as error:
                    raise problem_of(error) from error
            except Problem as problem:
                self._desk.refused(problem.kind)
                return _error(problem)

        return endpoint


class _Guarded:
    """An ASGI application behind authentication; it finds the caller in the request's state."""

    def __init__(self, auth: Auth, inner: ASGIApp, desk: Desk) -> None:
        self._auth = auth
        self._inner = inner
        self._desk = desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            request.state.caller = self._auth.identify(request.headers)
            # Calls are answered one by one, so there is no stream to listen to and no session to delete.
            if request.method != "POST":
                raise Problem(405, "method_not_allowed", f"/mcp takes POST, not {request.method}")
        except Problem as problem:
            self._desk.refused(problem.kind)
            await _error(problem)(scope, receive, send)
            return
        await self._inner(scope, receive, send)


def read_call(tool: str, caller: Caller, body: bytes) -> ToolCall:
    """The call in a request's body; raises Problem or BadArguments."""
    try:
        asked = msgspec.json.decode(body or b"{}", type=CallRequest)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        sentence = f"the body cannot be read ({error}); send arguments, and session and call_id where they are known"
        raise Problem(400, "bad_request", sentence) from error
    for name, value in (("session", asked.session), ("call_id", asked.call_id), ("tool", tool)):
        if value is not None and not 0 < len(value) <= MAX_NAME_CHARS:
            raise Problem(400, "bad_request", f"{name} has {len(value)} characters; send 1 to {MAX_NAME_CHARS}")
    return ToolCall(
        tenant=caller.tenant,
        tool=tool,
        arguments=parse_arguments(bytes(asked.arguments)),
        session=None if asked.session is None else SessionId(asked.session),
        call_id=asked.call_id,
    )


async def answered(ticket: Ticket, receive: Receive | None = None) -> Answer:
    """The answer. The ticket is left when this wait is cancelled, and when the client is seen to hang up."""
    answer = ticket.ready()
    if answer is not None:
        return answer
    watch = None if receive is None else asyncio.create_task(_leave_on_hangup(ticket, receive))
    try:
        return await ticket.wait()
    finally:
        ticket.leave()
        if watch is not None:
            watch.cancel()


async def _leave_on_hangup(ticket: Ticket, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    ticket.leave()


async def _body(request: Request) -> bytes:
    """The request's body, counted while it comes in: Content-Length is only what the client says."""
    body = bytearray()
    try:
        with anyio.fail_after(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise Problem(413, "too_large", f"the body is larger than {MAX_BODY_BYTES} bytes")
    except ClientDisconnect as error:
        raise Problem(400, "bad_request", "the client hung up before the body was complete") from error
    except TimeoutError as error:
        raise Problem(408, "bad_request", f"the body did not arrive within {BODY_SECONDS:.0f} s") from error
    return bytes(body)


def _result(answer: Answer) -> Response:
    outcome = answer.outcome
    if outcome.failure is not None:
        raise problem_of_failure(outcome.failure, outcome.content)
    return _json(
        {
            "content": outcome.content,
            "is_error": outcome.is_error,
            "truncated": outcome.truncated,
            "structured": outcome.structured,
            "outcome": answer.how,
            "duration_s": outcome.duration,
            "waited_s": answer.waited,
        }
    )


def _error(problem: Problem) -> Response:
    headers = {401: {"www-authenticate": "Bearer"}, 503: {"retry-after": "1"}}.get(problem.status)
    body = {"error": {"type": problem.kind, "message": problem.message}}
    return _json(body, problem.status, headers)


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    try:
        text = msgspec.json.encode(value)
    except (ValueError, OverflowError):
        # A tool's own JSON may hold what msgspec refuses: integers beyond 64 bits, lone surrogates.
        text = json.dumps(value, default=msgspec.to_builtins).encode()
    return Response(text, status, headers, "application/json")


async def _no_such_path(request: Request, error: Exception) -> Response:
    return _error(Problem(404, "not_found", f"there is no {request.url.path[:200]}"))


async def _no_such_method(request: Request, error: Exception) -> Response:
    return _error(Problem(405, "method_not_allowed", f"{request.url.path[:200]} does not take {request.method}"))


async def _our_fault(request: Request, error: Exception) -> Response:
    return _error(Problem(500, "internal", "the gateway failed; its log says why"))
