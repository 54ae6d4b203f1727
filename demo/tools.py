"""The demo's Python tools: real work on real files, with answers that do not change from run to run."""

import ast
import importlib.util
import json
from pathlib import Path
from typing import Literal

WORKSPACE = Path(__file__).parent / "workspace"
MAX_HITS = 6


def read_file(path: str, description: str = "") -> str:
    """Read a file of the shop.

    `description` says for the reader why it is read.
    """
    target = (WORKSPACE / path).resolve()
    if not target.is_relative_to(WORKSPACE):
        raise ValueError(f"{path} is outside the shop; give a path below it")
    return target.read_text()


def find_examples(construct: Literal["heapq", "bisect", "Decimal", "itertools"], description: str = "") -> str:
    """Find code in a large library that uses a construct, by parsing every file."""
    hits: list[dict[str, object]] = []
    library = _library()
    for source in sorted(library.rglob("*.py")):
        tree = ast.parse(source.read_text(errors="replace"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Name | ast.alias | ast.Attribute) and _name(node) == construct:
                hits.append({"file": str(source.relative_to(library)), "line": node.lineno})
                break
    return json.dumps({"construct": construct, "found": len(hits), "first": hits[:MAX_HITS]})


def _library() -> Path:
    spec = importlib.util.find_spec("sglang")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "srt" / "mem_cache"


def _name(node: ast.Name | ast.alias | ast.Attribute) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return node.name if isinstance(node, ast.alias) else node.attr
