"""Late-bound programs: how an argument of the next call is made from what the session has seen."""

from collections.abc import Iterator
from functools import lru_cache
from itertools import islice
from json.encoder import encode_basestring
from typing import Annotated, Any

import msgspec

from sglang_paste.calls import Arguments, canonical
from sglang_paste.errors import BadArguments
from sglang_paste.predict.secret import holds_secret, is_secret_name, is_secret_text

MAX_PARSED_CHARS = 32_768
MAX_LEAVES = 128
MAX_ITEMS = 32
MAX_LEAF_CHARS = 512
MAX_CONSTANT_CHARS = 256
MAX_ARGUMENTS_CHARS = 8_192
MAX_NAME_CHARS = 256
MAX_LINES = 32
MAX_DEPTH = 8
MAX_COPIES = 3
_RESULTS = 3
_NAMES = 32
_CONTAINERS = (dict, list)

Path = tuple[str | int, ...]
Name = Annotated[str, msgspec.Meta(max_length=MAX_NAME_CHARS)]


class Constant(msgspec.Struct, frozen=True, tag="constant", forbid_unknown_fields=True):
    """Always the same JSON value, kept as its canonical text."""

    text: Annotated[str, msgspec.Meta(max_length=MAX_CONSTANT_CHARS)]


class Copied(msgspec.Struct, frozen=True, tag="copied", forbid_unknown_fields=True):
    """What stands at `path` in the latest result of `tool`; a result that is not JSON is a list of its lines."""

    tool: Name
    path: Annotated[tuple[Name | int, ...], msgspec.Meta(max_length=MAX_DEPTH)]


class Earlier(msgspec.Struct, frozen=True, tag="earlier", forbid_unknown_fields=True):
    """The argument of this name in the latest call that had one."""

    name: Name


Program = Constant | Copied | Earlier


class History:
    """What one session has seen, as far as programs can reach: bounded, values as canonical JSON text.

    The text is what is compared, since in Python 1, 1.0 and True are equal and as arguments they are not.
    """

    def __init__(self) -> None:
        self._results: dict[str, dict[Path, str]] = {}
        self._where: dict[str, dict[str, tuple[Path, ...]]] = {}
        self._arguments: dict[str, str] = {}
        self._explained: dict[tuple[str, str], tuple[Program, ...]] = {}

    def push(self, tool: str, arguments: dict[str, str], content: str) -> None:
        """Take in a call that was made (its arguments as canonical texts) and its result."""
        self._explained.clear()
        for name, text in arguments.items():
            self._arguments.pop(name, None)
            self._arguments[name] = text
        while len(self._arguments) > _NAMES:
            del self._arguments[next(iter(self._arguments))]
        leaves = dict(_leaves(_parsed(content)))
        where: dict[str, tuple[Path, ...]] = {}
        for path, text in leaves.items():
            known = where.get(text, ())
            if len(known) < MAX_COPIES:
                where[text] = (*known, path)
        self._results.pop(tool, None)
        self._results[tool], self._where[tool] = leaves, where
        while len(self._results) > _RESULTS:
            oldest = next(iter(self._results))
            del self._results[oldest], self._where[oldest]

    def build(self, program: Program) -> str | None:
        """The canonical text the program comes to, or None where the session has not seen what it needs."""
        if isinstance(program, Constant):
            return program.text
        if isinstance(program, Copied):
            return self._results.get(program.tool, {}).get(program.path)
        return self._arguments.get(program.name)

    def explain(self, name: str, text: str) -> tuple[Program, ...]:
        """The programs that make exactly `text` for the argument `name` here, the likeliest kind first."""
        found = self._explained.get((name, text))
        if found is None:
            found = self._explained[name, text] = tuple(self._explain(name, text))
        return found

    def _explain(self, name: str, text: str) -> Iterator[Program]:
        trivial = _is_trivial(text)
        if trivial and _may_keep(name, text):
            yield Constant(text)
        for tool in reversed(self._results):
            for path in self._where[tool].get(text, ()):
                yield Copied(tool, path)
        if self._arguments.get(name) == text:
            yield Earlier(name)
        if not trivial and _may_keep(name, text):
            yield Constant(text)


def texts(arguments: Arguments) -> dict[str, str] | None:
    """Each argument's canonical text, or None where they are too many or too large to be worth predicting.

    Raises BadArguments for what JSON cannot say.
    """
    if len(arguments) > _NAMES or any(len(name) > MAX_NAME_CHARS or is_secret_text(name) for name in arguments):
        return None
    found = {name: canonical_text(value) for name, value in arguments.items()}
    return found if sum(map(len, found.values())) <= MAX_ARGUMENTS_CHARS else None


def canonical_text(value: Any) -> str:
    """One text per JSON value. Raises BadArguments for what JSON cannot say."""
    if type(value) is str and value.isascii():
        return encode_basestring(value)
    return str(value) if type(value) is int else canonical({"": value})[4:-1]


def _is_trivial(text: str) -> bool:
    """Whether equal values are more likely a coincidence than a copy: flags, small numbers, empty things."""
    return len(text) <= 4 or text == "false"


def _may_keep(name: str, text: str) -> bool:
    return len(text) <= MAX_CONSTANT_CHARS and not is_secret_name(name) and not holds_secret(msgspec.json.decode(text))


def _parsed(content: str) -> Any:
    if len(content) <= MAX_PARSED_CHARS and content.lstrip()[:1] in ("{", "[", '"'):
        try:
            return msgspec.json.decode(content)
        except (msgspec.DecodeError, RecursionError, UnicodeError):
            pass
    head = content[:MAX_PARSED_CHARS].splitlines()[: MAX_LINES * 4]
    return [line.strip() for line in head if line.strip()][:MAX_LINES]


def _leaves(root: Any) -> Iterator[tuple[Path, str]]:
    """Paths and texts of the scalars, breadth first, and of whole small arrays of scalars."""
    pending: list[tuple[Path, Any]] = [((), root)]
    seen = 0
    for path, value in pending:
        if seen >= MAX_LEAVES:
            return
        if isinstance(value, _CONTAINERS):
            if len(path) < MAX_DEPTH and len(pending) < 4 * MAX_LEAVES:
                pending.extend(((*path, key), item) for key, item in _children(value))
            if not _is_flat(value):
                continue
        text = _text_of(value)
        if text is not None and len(text) <= MAX_LEAF_CHARS:
            seen += 1
            yield path, text


def _children(value: dict[str, Any] | list[Any]) -> list[tuple[str | int, Any]]:
    if isinstance(value, list):
        return list(enumerate(value[:MAX_ITEMS]))
    head = islice(value.items(), MAX_ITEMS)
    return [(key, item) for key, item in head if len(key) <= 64 and _is_plain(key)]


@lru_cache(4096)
def _is_plain(key: str) -> bool:
    """Whether a key can be kept as part of a path."""
    return _text_of(key) is not None and not is_secret_text(key)


def _is_flat(value: Any) -> bool:
    return isinstance(value, list) and 0 < len(value) <= 16 and not any(map(_is_container, value))


def _is_container(value: Any) -> bool:
    return isinstance(value, _CONTAINERS)


def _text_of(value: Any) -> str | None:
    try:
        return canonical_text(value)
    except BadArguments:
        return None
