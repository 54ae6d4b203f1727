"""The table of `sglang-paste tools`."""

import asyncio
import json
import sys

from sglang_paste.errors import ConfigError
from sglang_paste.execute.catalog import Catalog, ToolInfo, load_config

HEADINGS = ("name", "kind", "effect", "reads", "writes", "runs early", "the server says")


def main(path: str, *, as_json: bool) -> int:
    """Print the tools of a tools.toml with what they do and what may run early; the exit code."""
    try:
        rows = asyncio.run(_rows(path))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 1
    if as_json:
        print(json.dumps([_record(tool, reason) for tool, reason in rows], indent=2, ensure_ascii=False))
    else:
        print(_table([_cells(tool, reason) for tool, reason in rows]))
    return 0


async def _rows(path: str) -> list[tuple[ToolInfo, str | None]]:
    catalog = Catalog(load_config(path))
    await catalog.open()
    try:
        return [(tool, catalog.why_not_early(tool.name)) for tool in catalog.tools()]
    finally:
        await catalog.close()


def _record(tool: ToolInfo, reason: str | None) -> dict[str, object]:
    return {
        "name": tool.name,
        "kind": tool.kind,
        "description": tool.description,
        "effect": tool.policy.effect,
        "reads": tool.policy.reads,
        "writes": tool.policy.writes,
        "observes": tool.policy.observes,
        "may_run_early": reason is None,
        "why_not": reason,
        "hints": tool.hints,
        "parameters": tool.parameters,
    }


def _cells(tool: ToolInfo, reason: str | None) -> tuple[str, ...]:
    policy = tool.policy
    early = "yes" if reason is None else f"no: {reason}"
    lists = (", ".join(policy.reads) or "-", ", ".join(policy.writes) or "-")
    return (tool.name, tool.kind, policy.effect, *lists, early, ", ".join(tool.hints) or "-")


def _table(rows: list[tuple[str, ...]]) -> str:
    lines = [HEADINGS, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
