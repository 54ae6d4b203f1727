"""What the readers share: texts made of parts, ids for what has none, and a task known by its text."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from typing import Any

from sglang_paste.mine.records import Call, Result, Turn

_MARKS = re.compile(r"[\W_]+")
_LABEL = re.compile(r"^(?:question|task|query|problem) ")


def plain(content: Any) -> str:
    """The text of a content: a string, a list of parts of which the texts count, or nothing."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = (part.get("text") if isinstance(part, dict) else part for part in content)
        return "\n".join(text for text in texts if isinstance(text, str))
    return ""


def offered(tools: list[Any] | None) -> tuple[str, ...] | None:
    """The names of tools in the form of the OpenAI chat API; what is no function is passed over."""
    if tools is None:
        return None
    functions = [tool.get("function", tool) for tool in tools if isinstance(tool, dict)]
    names = (function.get("name") for function in functions if isinstance(function, dict))
    return tuple(name for name in names if isinstance(name, str))


def digest(data: bytes) -> str:
    """An id for a document that has none; equal documents get equal ones."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()


def normalised(text: str) -> str:
    """The text as tasks are compared by: its words in lower case, without marks and without a label in front."""
    return _LABEL.sub("", _MARKS.sub(" ", text.lower()).strip())


def task_text(turns: Iterable[Turn]) -> str:
    """What the user asked for first, normalised; empty where no user spoke."""
    return next((normalised(turn.content) for turn in turns if turn.role == "user" and turn.content), "")


def task_or_text(task: Any, turns: Sequence[Turn], session_id: str) -> str:
    """The task's id where the recorder gave one, else one made of its text."""
    if isinstance(task, str | int) and not isinstance(task, bool) and task != "":
        return str(task)
    text = task_text(turns)
    return f"text/{digest(text.encode('utf-8', 'replace'))}" if text else session_id


class Pending:
    """The calls of the last assistant turn that have no result yet, so that each result finds its tool's name."""

    def __init__(self, calls: Iterable[Call] = ()) -> None:
        self._calls = list(calls)

    def result(self, content: str, id: str | None, name: str | None = None) -> Result:
        """A result with the name of the call it answers: by id, else by name, else the first one open."""
        call = self._find(id, name)
        if call is None:
            return Result(name or "", content, id)
        self._calls.remove(call)
        return Result(name or call.name, content, id or call.id)

    def _find(self, id: str | None, name: str | None) -> Call | None:
        if id is not None:
            return next((call for call in self._calls if call.id == id), None)
        return next((call for call in self._calls if name is None or call.name == name), None)
