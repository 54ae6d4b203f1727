"""Which calls need not run because a wider one did: a window of a file that was read, a filter behind a command.

What would be saved by claiming such calls from the wider one is estimated here. Whether a call may have changed
something is judged by its name and its first words, so this is an estimate and no rule to run calls by.
"""

import re
import shlex
from collections.abc import Collection

from sglang_paste.calls import Arguments, call_key
from sglang_paste.errors import BadArguments

WINDOW = frozenset(
    (
        *("offset", "limit", "start", "end", "start_line", "end_line", "line_start", "line_end", "first_line"),
        *("last_line", "line_count", "num_lines", "view_range", "line_range", "head_limit", "max_lines"),
    )
)
FILTERS = frozenset(("head", "tail", "grep", "egrep", "fgrep", "wc", "sort", "uniq", "cut", "tr", "nl", "jq", "cat"))
SHELL = frozenset(("command", "cmd", "script"))
READERS = FILTERS | frozenset(
    (
        *("ls", "find", "rg", "cd", "pwd", "which", "echo", "file", "stat", "du", "df", "tree", "env", "date"),
        *("diff", "less", "more", "basename", "dirname", "realpath", "test", "true", "type"),
    )
)
READ_ONLY_GIT = frozenset(("status", "log", "diff", "show", "branch", "blame", "grep", "ls-files", "rev-parse"))
_WRITES = re.compile(
    r"(?i)write|edit|create|insert|replace|update|delete|remove|move|rename|patch|commit|cancel|modify|set_|add_|book"
    r"|send|return|exchange|run|exec|bash|shell|terminal|python|code|task|agent"
)
_NOTES = re.compile(r"(?i)todo|think|plan")
_JOINED = re.compile(r"&&|\|\||;|\n|\|")


def base(tool: str, arguments: Arguments) -> tuple[str, Arguments]:
    """The widest call this one can be cut from: without its window of lines and the filters behind its pipe."""
    wide: Arguments = {}
    for name, value in arguments.items():
        if name in WINDOW and not isinstance(value, str):
            continue
        wide[name] = _unfiltered(value) if name in SHELL and isinstance(value, str) else value
    return tool, wide


def base_key(tool: str, arguments: Arguments, inert: Collection[str] = ()) -> str | None:
    """The key of the widest call, or None for arguments that JSON cannot say."""
    try:
        return call_key(*base(tool, arguments), inert)
    except BadArguments:
        return None


class Earlier:
    """The wide results a session has had since something in it may last have been changed."""

    def __init__(self) -> None:
        self._kept = set[str | None]()

    def has(self, key: str | None) -> bool:
        """Whether the wide call of this key would still be good."""
        return key is not None and key in self._kept

    def made(self, tool: str, arguments: Arguments, key: str | None) -> None:
        """A call was made; one that may write makes all earlier results stale, and its own good."""
        if may_write(tool, arguments):
            self._kept.clear()
        self._kept.add(key)


def may_write(tool: str, arguments: Arguments) -> bool:
    """Whether the call may have changed something, as far as its name and its command tell."""
    commands = [value for name, value in arguments.items() if name in SHELL and isinstance(value, str)]
    if commands:
        return not all(_only_reads(command) for command in commands)
    return _WRITES.search(tool) is not None and _NOTES.search(tool) is None


def _only_reads(command: str) -> bool:
    if ">" in command.replace("2>&1", "").replace("2>/dev/null", "") or "$(" in command or "`" in command:
        return False
    return all(_reads(stage) for stage in _JOINED.split(command.replace("2>&1", "")) if stage.strip())


def _reads(stage: str) -> bool:
    words = stage.split()
    if words[0] == "git":
        return len(words) > 1 and words[1] in READ_ONLY_GIT
    if words[0] == "find" and ("-delete" in words or "-exec" in words):
        return False
    return words[0] in READERS


def _unfiltered(command: str) -> str:
    """The command without the filters at its end that only choose among its lines."""
    stages = _stages(command)
    while len(stages) > 1 and _filters(stages[-1]):
        stages.pop()
    return "|".join(stages).strip()


def _filters(stage: str) -> bool:
    try:
        words = shlex.split(stage)
    except ValueError:
        return False
    plain = not any(mark in stage for mark in (";", "&&", ">", "<", "$(", "`", "&"))
    return plain and bool(words) and (words[0] in FILTERS or words[:2] == ["sed", "-n"])


def _stages(command: str) -> list[str]:
    """The command cut at its pipes, quotes respected; `||` is no pipe."""
    stages, quote, begin, at = list[str](), "", 0, 0
    while at < len(command):
        char = command[at]
        if char == "\\" and quote != "'":
            at += 1
        elif quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif command.startswith("||", at):
            at += 1
        elif char == "|":
            stages.append(command[begin:at])
            begin = at + 1
        at += 1
    return [*stages, command[begin:]]
