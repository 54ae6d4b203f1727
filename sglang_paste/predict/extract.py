"""What a text names: paths, identifiers, quoted phrases, numbers; and what a JSON document holds, by path."""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator
from itertools import islice
from typing import Any

import msgspec

from sglang_paste.predict.memo import Memo

MAX_CHARS = 3000
MAX_PIECES = 400
MAX_VALUE_CHARS = 400
MAX_PER_KIND = 48
MAX_LEAVES = 256
MAX_DEPTH = 8
MAX_ROWS = 16
MAX_PROSE_CHARS = 2400
MAX_PARSED_CHARS = 65_536
MAX_KNOWN = 32_768

Found = dict[str, list[str]]
"""The values of each kind in the order they stand, each once."""
Values = dict[str, dict[str, None]]

_URL = re.compile(r"https?://[^\s\"'<>)\]}`]+")
_TOKEN = re.compile(r"[#@~]?(?:\.{0,2}/)?\w+(?:(?:[./$@+-]{1,2}|::)\w+)*/?")
_IN_TOKENS = frozenset(b"#@~./$+-:_(")
_CUT = bytes(
    code if code > 127 or chr(code).isalnum() or code in _IN_TOKENS else 32 for code in range(256)
)  # to a space whatever stands in no token
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_SPAN = re.compile(r"`([^`\n]{1,300})`|\"([^\"\n]{2,300})\"|'([^'\n]{2,200})'(?!\w)|\*\*([^*\n]{2,200})\*\*")
_WORD = r"(?:[A-Z]\.(?= [A-Z])|[A-Z0-9][\w'’&.-]*[\w'’]|[A-Z0-9])"
_LINK = r"(?:of|the|and|in|de|la|for|on|at|to|von|van|du|&|a)"
_CAPITAL = re.compile(rf"{_WORD}(?:(?:,?(?: {_LINK}){{1,2}} |[ -]|, ){_WORD})*(?: \([^)\n]{{2,40}}\))?")
_LINE = re.compile(r"^([^\s:]+):\d+:", re.MULTILINE)
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


def tokens(text: str) -> Found:
    """Paths, URLs, dates and identifiers; plain words are left out."""
    values: Values = defaultdict(dict)
    _tokens(text, values)
    return _listed(values)


def prose(text: str, year: str, wanted: Collection[str] | None = None) -> Found:
    """What a message of a person or a model names, as far as the kinds are `wanted` (all, where None); `year` stands
    in where a date written in words has none."""
    text = cut(text)
    values: Values = defaultdict(dict)
    if _any(wanted, SPANS):
        _spans(text, values)
    if _any(wanted, TOKENS):
        _tokens(text, values)
    if _any(wanted, PHRASES):
        _phrases(text, values)
    if wanted is None or "date" in wanted:
        _days(text, year, values)
    return _listed(values)


def result(text: str, wanted: Collection[str] | None = None) -> Found:
    """What the text of a tool's result names, as far as the kinds are `wanted` (all, where None)."""
    text = cut(text)
    values: Values = defaultdict(dict)
    if wanted is None or "hit" in wanted:
        values["hit"] = dict.fromkeys(_LINE.findall(text))
    if _any(wanted, SPANS):
        _spans(text, values)
    if _any(wanted, TOKENS):
        _tokens(text, values)
    if len(text) < MAX_PROSE_CHARS:
        if _any(wanted, PHRASES):
            _phrases(text, values)
        if wanted is None or "line" in wanted:
            lines = map(str.strip, text.split("\n", MAX_PER_KIND)[:MAX_PER_KIND])
            values["line"] = dict.fromkeys([line for line in lines if 0 < len(line) < 120])
    return _listed(values)


def cut(text: str) -> str:
    """The start and the end of a text that is too long to be read whole."""
    return text if len(text) <= MAX_CHARS else text[: MAX_CHARS * 3 // 4] + "\n" + text[-MAX_CHARS // 4 :]


def parsed(text: str) -> Any:
    """The JSON object or array a text is, or None."""
    if text[:1] in ("{", "[") and len(text) <= MAX_PARSED_CHARS:
        try:
            return msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError, UnicodeError):
            return None
    return None


def leaves(document: Any) -> list[tuple[str, str, int]]:
    """The scalars of a document: their path, their text, and the number of the object they are in.

    List positions are `[]` in a path, and keys that hold digits are `{}`, which are values too. Breadth first, bounded.
    """
    found: list[tuple[str, str, int]] = []
    pending: list[tuple[str, Any, int]] = [("", document, 0)]
    for number, (path, value, around) in enumerate(pending, start=1):
        if len(found) >= MAX_LEAVES or path.count(".") >= MAX_DEPTH:
            break
        items: list[tuple[str, Any, int]]
        if isinstance(value, dict):
            items = []
            for key, item in islice(value.items(), MAX_LEAVES):
                if _is_numbered[key]:
                    found.append((f"{path}.{{}}", key, around))
                    items.append((f"{path}.{{}}", item, number))
                else:
                    items.append((f"{path}.{key[:64]}", item, number))
        else:
            below = f"{path}[]"
            items = [(below, item, around) for item in value[:MAX_PER_KIND]]
        for below, item, owner in items:
            if isinstance(item, (dict, list)):
                pending.append((below, item, owner))
                continue
            text = item if isinstance(item, str) else scalar(item)
            if len(text) <= MAX_VALUE_CHARS:
                found.append((below, text, owner))
    return found


def tables(document: Any) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The lists of objects in a document, by their path; bounded."""
    pending: list[tuple[str, Any]] = [("", document)]
    for path, value in pending:
        if isinstance(value, dict) and len(pending) < MAX_LEAVES:
            some = islice(value.items(), MAX_LEAVES)
            pending.extend([(f"{path}.{key[:64]}", item) for key, item in some if isinstance(item, (dict, list))])
        elif isinstance(value, list) and 0 < len(value) <= MAX_ROWS and all(isinstance(row, dict) for row in value):
            yield path, value


def scalar(value: Any) -> str:
    """The text of a JSON scalar; strings as they are."""
    if isinstance(value, str):
        return value
    return str(value) if type(value) is int else msgspec.json.encode(value).decode()


def _tokens(text: str, values: Values) -> None:
    if "://" in text:
        for url in _URL.findall(text):
            values["url"][url.rstrip(".,")] = None
        text = _URL.sub(" ", text)
    pieces = dict.fromkeys(text.encode("utf-8", "replace").translate(_CUT).split())
    for named in map(_named.__getitem__, islice(pieces, MAX_PIECES)):
        for kind, value in named:
            values[kind][value] = None


def _names(piece: bytes) -> tuple[tuple[str, str], ...]:
    # Most are plain words, and those that are not come again and again in a session.
    if len(piece) > MAX_VALUE_CHARS or (piece.isalpha() and piece.islower()):
        return ()
    return tuple(_classified(piece.decode("utf-8", "replace")))


def _classified(text: str) -> Iterator[tuple[str, str]]:
    for match in _TOKEN.finditer(text):
        value = match.group()
        if value.isalpha():
            if text[match.end() : match.end() + 1] == "(":
                yield "called", value
            if not value[1:].islower() and len(value) > 1:
                yield "symbol", value
        elif "/" in value:
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
            if text[match.end() : match.end() + 1] == "(":
                yield "called", value


_named = Memo(_names, MAX_KNOWN)


def _spans(text: str, values: Values) -> None:
    """What stands between back-ticks, quotes or bold marks."""
    for code, double, single, bold in _SPAN.findall(text):
        if code:
            values["code"][code] = None
        elif bold:
            values["bold"][bold] = None
        else:
            values["quote"][double or single] = None


def _phrases(text: str, values: Values) -> None:
    """Capitalised phrases of prose, and what is left of them without a question word, a bracket or a comma."""
    for found in dict.fromkeys(_CAPITAL.findall(text)):
        value = found.removesuffix("'s").removesuffix("’s")
        first, _, rest = value.partition(" ")
        if first in _START:
            if rest and first not in ("The", "A"):
                value = rest
            elif not rest:
                continue
        if len(value) > 1:
            values["phrase"][value] = None
            _parts(value, values)


def _parts(value: str, values: Values) -> None:
    if value.startswith("The "):
        values["phrase"][value[4:]] = None
    for cut_at in (" (", ", ", " and "):
        if cut_at in value:
            head, _, tail = value.partition(cut_at)
            values["part"][head] = None
            if cut_at != " (":
                values["part"][tail] = None
    first, _, rest = value.partition(" ")
    if rest:
        values["first"][first] = None
        values["rest"][rest] = None


def _days(text: str, year: str, values: Values) -> None:
    for name, number, said in _DAY.findall(text):
        if 0 < int(number) < 32:
            values["date"][f"{said or year}-{_MONTHS.index(name.lower()) + 1:02}-{int(number):02}"] = None


def _listed(values: Values) -> Found:
    return {kind: list(islice(some, MAX_PER_KIND)) for kind, some in values.items()}


def _any(wanted: Collection[str] | None, kinds: frozenset[str]) -> bool:
    return wanted is None or not kinds.isdisjoint(wanted)


_is_numbered: Memo[str, bool] = Memo(lambda key: any(map(str.isdigit, key)), 4096)
