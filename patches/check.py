"""The hook table against the installed SGLang, read from its source: nothing of it is imported."""

import ast
import copy
import importlib.metadata
import importlib.util
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from sglang_paste.errors import HookError
from sglang_paste.patches.table import HOOKS, SUPPORTED, Hook

Status = Literal["ok", "missing", "changed"]

_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_DECORATORS = ("classmethod", "staticmethod", "property")


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a row: `found` is the signature in the installed source, None where there is no such place."""

    hook: Hook
    status: Status
    found: str | None

    def sentence(self) -> str:
        """What is wrong, what was found, what to do."""
        target = self.hook.target
        if self.status == "missing":
            return f"{target} is missing from the installed SGLang {installed_version()}; install {supported_range()}"
        return (
            f"{target} has changed: expected {self.hook.signature}, found {self.found}"
            f" in the installed SGLang {installed_version()}; install {supported_range()}"
        )


def examine(hooks: Iterable[Hook]) -> list[Finding]:
    """One finding per row. Each source file is read once."""
    trees: dict[Path, ast.Module] = {}
    return [_examine(hook, trees) for hook in hooks]


def require(hooks: Iterable[Hook]) -> None:
    """Raise HookError for the first row that is missing or changed, and for an SGLang outside the range."""
    require_version()
    for finding in examine(hooks):
        if finding.status != "ok":
            raise HookError(finding.sentence())


def require_version() -> None:
    """Raise HookError where SGLang is absent, or outside the range the table was written against."""
    version = installed_version()
    numbers = tuple(int(part) if part.isdigit() else -1 for part in version.partition("+")[0].split(".")[:3])
    if not SUPPORTED[0] <= numbers < SUPPORTED[1]:
        raise HookError(f"SGLang {version} is installed; tool speculation supports {supported_range()}")


def installed_version() -> str:
    """The version of the installed SGLang, or "none"."""
    try:
        return importlib.metadata.version("sglang")
    except importlib.metadata.PackageNotFoundError:
        return "none"


def supported_range() -> str:
    """The range as a requirement."""
    low, high = (".".join(map(str, version)) for version in SUPPORTED)
    return f"sglang>={low},<{high}"


def declared(target: str, trees: dict[Path, ast.Module] | None = None) -> str | None:
    """How the source of `target` declares it, or None where it does not."""
    located = _locate(target.split("."))
    if located is None:
        return None
    path, names = located
    trees = {} if trees is None else trees
    if path not in trees:
        trees[path] = ast.parse(path.read_bytes())
    scope: list[ast.stmt] = trees[path].body
    definition: _Definition | None = None
    for name in names:
        definition = _find(scope, name)
        if definition is None:
            return None
        scope = definition.body
    return None if definition is None else _render(definition)


def report(hooks: Sequence[Hook] = HOOKS, *, as_json: bool = False) -> int:
    """Print the table with its findings; 0 where the installed SGLang is in range and every row is ok, else 1."""
    findings = examine(hooks)
    version_error = _version_error()
    if as_json:
        print(json.dumps(_records(findings, version_error), indent=2))
    else:
        print(_table(findings))
        print(f"sglang {installed_version()}" + (f": {version_error}" if version_error else " is supported"))
    return int(version_error is not None or any(finding.status != "ok" for finding in findings))


def _examine(hook: Hook, trees: dict[Path, ast.Module]) -> Finding:
    found = declared(hook.target, trees)
    status: Status = "missing" if found is None else "ok" if found == hook.signature else "changed"
    return Finding(hook=hook, status=status, found=found)


def _version_error() -> str | None:
    try:
        require_version()
    except HookError as error:
        return str(error)
    return None


def _locate(parts: list[str]) -> tuple[Path, list[str]] | None:
    """The file that holds the target, and the names to follow inside it."""
    spec = importlib.util.find_spec(parts[0])
    roots = spec.submodule_search_locations if spec is not None else None
    for root in roots or ():
        folder = Path(root)
        for index, part in enumerate(parts[1:], start=1):
            if (module := folder / f"{part}.py").is_file():
                return module, parts[index + 1 :]
            folder /= part
            if not folder.is_dir():
                if (package := folder.parent / "__init__.py").is_file():
                    return package, parts[index:]
                break
    return None


def _find(body: Sequence[ast.stmt], name: str) -> _Definition | None:
    """The last definition of a name wins, as it does at run time; branches are searched too."""
    found: _Definition | None = None
    for statement in body:
        if isinstance(statement, _Definition):
            found = statement if statement.name == name else found
        elif isinstance(statement, ast.If | ast.Try | ast.With):
            nested = [node for node in ast.iter_child_nodes(statement) if isinstance(node, ast.stmt)]
            found = _find(nested, name) or found
    return found


def _render(definition: _Definition) -> str:
    if isinstance(definition, ast.ClassDef):
        return f"class ({', '.join(map(ast.unparse, definition.bases))})"
    arguments = copy.deepcopy(definition.args)
    for node in ast.walk(arguments):
        if isinstance(node, ast.arg):
            node.annotation = None
    words = [d.id for d in definition.decorator_list if isinstance(d, ast.Name) and d.id in _DECORATORS]
    if isinstance(definition, ast.AsyncFunctionDef):
        words.append("async")
    return " ".join([*words, f"({ast.unparse(arguments)})"])


def _table(findings: Sequence[Finding]) -> str:
    rows = [("target", "kind", "role", "status")]
    rows += [(f.hook.target, f.hook.kind, ",".join(f.hook.roles), _status(f)) for f in findings]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join("  ".join([*map(str.ljust, row, widths), row[3]]) for row in rows)


def _status(finding: Finding) -> str:
    if finding.status == "changed":
        return f"changed: expected {finding.hook.signature}, found {finding.found}"
    return finding.status


def _records(findings: Sequence[Finding], version_error: str | None) -> dict[str, object]:
    hooks = [
        {
            "target": f.hook.target,
            "kind": f.hook.kind,
            "roles": f.hook.roles,
            "status": f.status,
            "expected": f.hook.signature,
            "found": f.found,
        }
        for f in findings
    ]
    return {"sglang": installed_version(), "supported": supported_range(), "error": version_error, "hooks": hooks}


if __name__ == "__main__":
    for wanted in sys.argv[1:]:
        print(wanted, declared(wanted))
