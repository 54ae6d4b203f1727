"""What a text names: paths, identifiers, quoted phrases, numbers; and what a JSON document holds, by path."""

import re
from collections.abc import Collection, Iterator
from itertools import islice
from typing import Any

import msgspec

MAX_CHARS = 4200
MAX_TOKENS = 450
MAX_VALUE_CHARS = 400
MAX_PER_KIND = 48
MAX_LEAVES = 256
MAX_DEPTH = 8
MAX_ROWS = 16
MAX_PROSE_CHARS = 3000

Found = tuple[str, str]
"""The kind of a value, and its text."""

_TOKEN = re.compile(r"https?://[^\s\"'<>)\]}`]+|[#@~]?(?:\.{0,2}/)?\w+(?:(?:[./$@+-]{1,2}|::)\w+)*/?")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_SPAN = re.compile(r"`([^`\n]{1,300})`|\"([^\"\n]{2,300})\"|'([^'\n]{2,200})'(?!\w)|\*\*([^*\n]{2,200})\*\*")
_WORD = r"(?:[A-Z]\.(?= [A-Z])|[A-Z0-9][\w'’&.-]*[\w'’]|[A-Z0-9])"
_LINK = r"(?:of|the|and|in|de|la|for|on|at|to|von|van|du|&|a)"
_CAPITAL = re.compile(rf"{_WORD}(?:(?:,?(?: {_LINK}){{1,2}} |[ -]|, ){_WORD})*(?: \([^)\n]{{2,40}}\))?")
_LINE = re.compile(r"^([^\s:]+):(\d+):", re.MULTILINE)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAY = re.compile(
    r"(?i)\b(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]* (\d{1,2})(?:st|nd|rd|th)?\b(?:,? (\d{4}))?"
)
_START = frozenset(
    re.findall(
        r"\w+",
        "Who What When Where Which Why How Is Are Was Were Did Do Does The A An In On Of Question Thought Observation "
        "I It This That Search So Now Let Both Name And But For If",
    )
)


TOKENS = frozenset(("url", "date", "path", "base", "dir", "number", "dotted", "tail", "head", "id", "symbol", "called"))
SPANS = frozenset(("code", "quote", "bold"))
PHRASES = frozenset(("phrase", "part", "first", "rest"))


def tokens(text: str) -> Iterator[Found]:
    """Paths, URLs, dates and identifiers in the order they stand; plain words are left out."""
    for match in islice(_TOKEN.finditer(text), MAX_TOKENS):
        value = match.group()
        if value.isalpha():
            end = match.end()
            if text[end : end + 1] == "(":
                yield "called", value
            if not value[1:].islower() and len(value) > 1:
                yield "symbol", value
        elif "/" in value:
            if value[:4] == "http" and "://" in value[:9]:
                yield "url", value.rstrip(".,")
                continue
            yield "path", value
            head, _, tail = value.rstrip("/").rpartition("/")
            yield "base", tail
            yield "dir", head
        elif "." in value:
            yield "dotted", value
            head, _, tail = value.rpartition(".")
            yield "tail", tail
            yield "head", head
        elif value.isdigit():
            yield "number", value
        elif _DATE.fullmatch(value):
            yield "date", value
        else:
            yield ("id" if any(map(str.isdigit, value)) else "symbol"), value
            end = match.end()
            if text[end : end + 1] == "(":
                yield "called", value


def spans(text: str) -> Iterator[Found]:
    """What stands between back-ticks, quotes or bold marks."""
    for match in _SPAN.finditer(text):
        index = match.lastindex or 1
        yield ("code", "quote", "quote", "bold")[index - 1], match.group(index)


def phrases(text: str) -> Iterator[Found]:
    """Capitalised phrases of prose, and what is left of them without a question word, a bracket or a comma."""
    for match in _CAPITAL.finditer(text):
        value = match.group().removesuffix("'s").removesuffix("’s")
        first, _, rest = value.partition(" ")
        if first in _START:
            if rest and first not in ("The", "A"):
                value = rest
            elif not rest:
                continue
        if len(value) < 2:
            continue
        yield "phrase", value
        yield from _parts(value)


def _parts(value: str) -> Iterator[Found]:
    if value.startswith("The "):
        yield "phrase", value[4:]
    for cut_at in (" (", ", ", " and "):
        if cut_at in value:
            head, _, tail = value.partition(cut_at)
            yield "part", head
            if cut_at != " (":
                yield "part", tail
    first, _, rest = value.partition(" ")
    if rest:
        yield "first", first
        yield "rest", rest


def days(text: str, year: str) -> Iterator[Found]:
    """Dates written in words, as ISO dates; `year` stands in where none is said."""
    for match in _DAY.finditer(text):
        month = _MONTHS.index(match.group(1).lower()) + 1
        day = int(match.group(2))
        if 0 < day < 32:
            yield "date", f"{match.group(3) or year}-{month:02}-{day:02}"


def prose(text: str, year: str, wanted: Collection[str] | None = None) -> Iterator[Found]:
    """What a message of a person or a model names, as far as the kinds are `wanted` (all, where None)."""
    text = cut(text)
    if _any(wanted, SPANS):
        yield from spans(text)
    if _any(wanted, TOKENS):
        yield from tokens(text)
    if _any(wanted, PHRASES):
        yield from phrases(text)
    if wanted is None or "date" in wanted:
        yield from days(text, year)


def result(text: str, wanted: Collection[str] | None = None) -> Iterator[Found]:
    """What the text of a tool's result names, as far as the kinds are `wanted` (all, where None)."""
    text = cut(text)
    if wanted is None or "hit" in wanted:
        for match in _LINE.finditer(text):
            yield "hit", match.group(1)
    if _any(wanted, SPANS):
        yield from spans(text)
    if _any(wanted, TOKENS):
        yield from tokens(text)
    if len(text) < MAX_PROSE_CHARS:
        if _any(wanted, PHRASES):
            yield from phrases(text)
        if wanted is None or "line" in wanted:
            for line in text.splitlines()[:MAX_PER_KIND]:
                line = line.strip()
                if 0 < len(line) < 120:
                    yield "line", line


def _any(wanted: Collection[str] | None, kinds: frozenset[str]) -> bool:
    return wanted is None or not kinds.isdisjoint(wanted)


def cut(text: str) -> str:
    """The start and the end of a text that is too long to be read whole."""
    return text if len(text) <= MAX_CHARS else text[: MAX_CHARS * 3 // 4] + "\n" + text[-MAX_CHARS // 4 :]


def parsed(text: str) -> Any:
    """The JSON object or array a text is, or None."""
    if text[:1] in "{[" and len(text) <= 65_536:
        try:
            return msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError, UnicodeError):
            return None
    return None


def leaves(document: Any) -> Iterator[tuple[str, str, str]]:
    """The scalars of a document: their path, their text, and the object they are in.

    List positions are `[]` in a path, and keys that hold digits are `{}`, which are values too. Lists of scalars are
    values as a whole, under their path and `=`. Breadth first, bounded.
    """
    pending: list[tuple[str, Any, str]] = [("", document, "")]
    for path, value, holder in pending:
        if isinstance(value, dict):
            if path.count(".") < MAX_DEPTH and len(pending) < 4 * MAX_LEAVES:
                mine = str(len(pending))
                for key, item in value.items():
                    if any(char.isdigit() for char in key):
                        yield f"{path}.{{}}", key, holder
                        pending.append((f"{path}.{{}}", item, mine))
                    else:
                        pending.append((f"{path}.{key[:64]}", item, mine))
        elif isinstance(value, list):
            if len(pending) < 4 * MAX_LEAVES:
                pending.extend((f"{path}[]", item, holder) for item in value[:MAX_PER_KIND])
        else:
            text = scalar(value)
            if len(text) <= MAX_VALUE_CHARS:
                yield path, text, holder


def tables(document: Any) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The lists of objects in a document, by their path; bounded."""
    pending: list[tuple[str, Any]] = [("", document)]
    for path, value in pending:
        if isinstance(value, dict) and len(pending) < MAX_LEAVES:
            pending.extend((f"{path}.{key[:64]}", item) for key, item in value.items())
        elif isinstance(value, list) and 0 < len(value) <= MAX_ROWS and all(isinstance(row, dict) for row in value):
            yield path, value


def scalar(value: Any) -> str:
    """The text of a JSON scalar; strings as they are."""
    if isinstance(value, str):
        return value
    return msgspec.json.encode(value).decode()
