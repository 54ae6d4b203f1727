"""An MCP server of the official SDK: `python mcp_tools.py stdio|http PORT`."""

import asyncio
import os
import sys
from typing import Any

import uvicorn
from mcp.server import MCPServer
from mcp.server.mcpserver import Context, Image
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations

server = MCPServer("probe")


@server.tool(annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False))
def echo(text: str) -> str:
    """Say it again."""
    return text


@server.tool()
def point(x: int) -> dict[str, Any]:
    """A structured result."""
    return {"x": x}


@server.tool()
def fail() -> str:
    """Raise."""
    raise ToolError("bad é")


@server.tool(structured_output=False)
def picture() -> list[Any]:
    """Text and an image."""
    return ["before", Image(data=b"12345", format="png")]


@server.tool()
def die() -> str:
    """End the server."""
    os._exit(7)


@server.tool()
async def hang(path: str) -> str:
    """Note in `path` how it ended."""
    try:
        await asyncio.sleep(1000)
    except BaseException as error:
        with open(path, "w") as file:  # noqa: ASYNC230
            file.write(type(error).__name__)
        raise
    return ""


@server.tool()
def environment() -> list[str]:
    """The names of the variables."""
    return sorted(os.environ)


@server.tool()
async def grow(context: Context) -> str:
    """Offer one tool more."""
    server.add_tool(lambda: "grown", name="grown", description="new")
    await context.notify_tools_changed()
    return "ok"


if __name__ == "__main__":
    if sys.argv[1] == "stdio":
        server.run("stdio")
    else:
        uvicorn.run(server.streamable_http_app(), host="127.0.0.1", port=int(sys.argv[2]), log_level="error")
