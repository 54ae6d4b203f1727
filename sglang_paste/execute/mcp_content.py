"""What an MCP tool returned, as text."""

from mcp import types

from sglang_paste.calls import canonical
from sglang_paste.execute.base import Outcome
from sglang_paste.execute.process import readable


def outcome_of(result: types.CallToolResult, limit: int) -> Outcome:
    """The result's text, cut at `limit` bytes; what is no text is named. A structured result without any is JSON."""
    parts = [_text(block) for block in result.content]
    structured = result.structured_content
    if not parts and structured is not None:
        parts = [canonical(structured)]
    data = "\n".join(parts).encode(errors="replace")
    truncated = len(data) > limit
    return Outcome(
        content=readable(data[:limit], cut=truncated),
        is_error=result.is_error,
        truncated=truncated,
        structured=None if truncated else structured,
    )


def _text(block: types.ContentBlock) -> str:
    match block:
        case types.TextContent():
            return block.text
        case types.ImageContent() | types.AudioContent():
            return f"[{block.type} {block.mime_type}, {len(block.data) * 3 // 4} bytes]"
        case types.ResourceLink():
            return f"[resource {block.uri}]"
        case types.EmbeddedResource(resource=types.TextResourceContents() as resource):
            return resource.text
        case types.EmbeddedResource(resource=types.BlobResourceContents() as resource):
            return f"[resource {resource.uri}, {len(resource.blob) * 3 // 4} bytes]"
    return f"[{block.type}]"
