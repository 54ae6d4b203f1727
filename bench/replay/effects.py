"""What each recorded tool does, as an operator would declare it. What is not known here writes everything of its
session."""

import re
from typing import Literal

import msgspec

from bench.replay.records import Effect

Kind = Literal["nothing", "file", "api", "analysis", "web", "shell", "agent"]

_WORKSPACE, _DATABASE, _TODOS, _WEB = "session:workspace", "session:database", "session:todos", "web"
_SEARCH = r"(web|local)_?search\w*|search|lookup|visit|click|crawl\w*|web_?fetch|get_github\w*|document_retriever"


class Declared(msgspec.Struct, frozen=True):
    """A tool's effect, the resource it reads or writes ("" for none), and what kind of work it is."""

    effect: Effect
    resource: str
    kind: Kind


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
    (r"bash|code_executor|python_repl\w*|afm_handler|image_optimizer", Declared("write", _WORKSPACE, "shell")),
    (r"task|handoff\w*", Declared("write", _WORKSPACE, "agent")),
    (r"(get|find|search|list|check)_\w+", Declared("read", _DATABASE, "api")),
)
_UNKNOWN = Declared("write", _DATABASE, "api")


def declared(tool: str) -> Declared:
    """What is declared of a tool."""
    for pattern, found in _TABLE:
        if re.fullmatch(pattern, tool, re.IGNORECASE):
            return found
    return _UNKNOWN
