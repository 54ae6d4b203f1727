"""The same tools for any MCP client: streamable HTTP without sessions, so that a restart loses nobody.

A call's `_meta` may name the engine's session (`session`) and the id under which it runs at most once (`call_id`).
A progress token is neither: clients count it from one in every connection.
"""

from contextlib import AbstractAsyncContextManager
from importlib.metadata import version
from typing import Any

from mcp import types
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp, StreamableHTTPSessionManager
from starlette.requests import Request
from starlette.types import ASGIApp

from sglang_paste.calls import SessionId, ToolCall
from sglang_paste.errors import CallError
from sglang_paste.gateway.api import Answer, Desk, Offer
from sglang_paste.gateway.http import MAX_BODY_BYTES, MAX_NAME_CHARS, answered
from sglang_paste.gateway.problems import Problem, problem_of

Context = ServerRequestContext[dict[str, Any], Request]


class McpGateway:
    """An MCP server whose calls go to the desk. It expects the caller in the request's state."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        server = Server[dict[str, Any]](
            "sglang-paste",
            version=version("sglang-paste"),
            on_list_tools=self._list,
            on_call_tool=self._call,
            get_tool_input_schema=self._schema,
        )
        self._manager = StreamableHTTPSessionManager(server, stateless=True, max_request_body_size=MAX_BODY_BYTES)
        self.asgi: ASGIApp = StreamableHTTPASGIApp(self._manager)

    def running(self) -> AbstractAsyncContextManager[None]:
        """The time in which requests are answered; to be entered once."""
        return self._manager.run()

    async def _list(self, context: Context, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[_tool(offer) for offer in self._desk.offers()])

    async def _call(self, context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        try:
            try:
                answer = await self._answer(context, params)
            except CallError as error:
                raise problem_of(error) from error
        except Problem as problem:
            self._desk.refused(problem.kind)
            return _refusal(problem.message)
        return _result(answer)

    async def _answer(self, context: Context, params: types.CallToolRequestParams) -> Answer:
        if context.request is None:
            raise Problem(500, "internal", "an MCP call came without its request")
        session, call_id = (_name(context, key) for key in ("session", "call_id"))
        call = ToolCall(
            tenant=context.request.state.caller.tenant,
            tool=params.name,
            arguments=params.arguments or {},
            session=None if session is None else SessionId(session),
            call_id=call_id,
        )
        # The SDK cancels this handler when the client hangs up; the wait then leaves the ticket.
        return await answered(self._desk.call(call))

    def _schema(self, name: str) -> dict[str, Any] | None:
        return next((offer.parameters for offer in self._desk.offers() if offer.name == name), None)


def _name(context: Context, key: str) -> str | None:
    value = (context.meta or {}).get(key)
    if value is None or (isinstance(value, str) and 0 < len(value) <= MAX_NAME_CHARS):
        return value
    raise Problem(400, "bad_request", f"_meta's {key} is not a text of 1 to {MAX_NAME_CHARS} characters")


def _tool(offer: Offer) -> types.Tool:
    read_only = offer.effect != "write"
    return types.Tool(
        name=offer.name,
        description=offer.description,
        input_schema=offer.parameters,
        annotations=types.ToolAnnotations(read_only_hint=read_only, idempotent_hint=read_only),
    )


def _result(answer: Answer) -> types.CallToolResult:
    outcome = answer.outcome
    if outcome.failure is not None:
        return _refusal(outcome.content)
    return types.CallToolResult(
        content=[types.TextContent(type="text", text=outcome.content)],
        structured_content=outcome.structured if isinstance(outcome.structured, dict) else None,
        is_error=outcome.is_error,
        _meta={"outcome": answer.how, "duration_s": outcome.duration, "waited_s": answer.waited},
    )


def _refusal(sentence: str) -> types.CallToolResult:
    return types.CallToolResult(content=[types.TextContent(type="text", text=sentence)], is_error=True)
