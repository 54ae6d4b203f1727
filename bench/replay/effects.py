"""What each recorded tool does, as an operator would declare it. What is not known here writes everything of its
session."""

import functools
import re
from typing import Any, Literal

import msgspec

from bench.replay.records import Effect
from sglang_paste.calls import call_key
from sglang_paste.config import Policy
from sglang_paste.policy import policy_of

Kind = Literal["nothing", "file", "api", "analysis", "web", "shell", "agent"]

_WORKSPACE, _DATABASE, _TODOS, _WEB = "session:workspace", "session:database", "session:todos", "web"
# Of a shell that is new for each command, so that a change of folder is over with it. Tests leave files behind that no
# other command looks for.
_SHELL = (
    *("cat", "cd", "cmp", "cut", "diff", "du", "echo", "fgrep", "file", "find", "git blame", "git diff", "git grep"),
    *("git log", "git ls-files", "git rev-parse", "git show", "git status", "grep", "head", "ls", "pip list"),
    *("pip show", "pwd", "pytest", "python -m pytest", "python -m unittest", "python3 -m pytest"),
    *("python3 -m unittest", "rg", "sed", "sort", "stat", "tail", "tr", "tree", "uniq", "wc", "which"),
)


class Declared(msgspec.Struct, frozen=True):
    """A tool's effect, the resource it reads or writes ("" for none), and what kind of work it is. `inert` arguments
    are for the reader; `reads_when` is as in a tools.toml."""

    effect: Effect
    resource: str
    kind: Kind
    inert: tuple[str, ...] = ()
    reads_when: tuple[tuple[str, tuple[str, ...]], ...] = ()


# The first that matches a tool's whole name counts.
_TABLE: tuple[tuple[str, Declared], ...] = (
    (r"think|calculate|finish|compare", Declared("pure", "", "nothing")),
    (r"todo_?write|write_todos", Declared("write", _TODOS, "nothing")),
    (
        r"(web|local)_?search\w*|search|lookup|visit|click|crawl\w*|web_?fetch|get_github\w*",
        Declared("read", "", "web"),
    ),
    (r"image_analyzer|inspect_code|get_(method|symbol|class|file)_info", Declared("read", _WORKSPACE, "analysis")),
    (r"get_(call_chain|function_callers|inheritance_hierarchy)", Declared("read", _WORKSPACE, "analysis")),
    (r"search_code|find_references", Declared("read", _WORKSPACE, "analysis")),
    (r"read|read_file|open_files|grep|glob|ls|list_files|expand_\w+", Declared("read", _WORKSPACE, "file")),
    (
        r"edit|write|write_file|str_replace|create_file|delete_file|find_and_replace_code|apply_patch",
        Declared("write", _WORKSPACE, "file"),
    ),
    (r"run_tests|build", Declared("read", _WORKSPACE, "shell")),
    (r"bash", Declared("write", _WORKSPACE, "shell", ("description",), (("command", _SHELL),))),
    (r"code_executor|python_repl\w*|afm_handler|image_optimizer", Declared("write", _WORKSPACE, "shell")),
    (r"task|handoff\w*", Declared("write", _WORKSPACE, "agent")),
    (r"(get|find|search|list|check)_\w+", Declared("read", _DATABASE, "api")),
)
_UNKNOWN = Declared("write", _DATABASE, "api")


@functools.cache
def declared(tool: str) -> Declared:
    """What is declared of a tool."""
    for pattern, found in _TABLE:
        if re.fullmatch(pattern, tool, re.IGNORECASE):
            return found
    return _UNKNOWN


def effect_of(tool: str, arguments: dict[str, Any]) -> Effect:
    """What one call of it does, by the product's own rule."""
    known = declared(tool)
    return policy_of(Policy(effect=known.effect, reads_when=dict(known.reads_when)), arguments).effect


def key_of(tool: str, arguments: dict[str, Any]) -> str:
    """What calls that return the same have in common."""
    return call_key(tool, arguments, declared(tool).inert)
