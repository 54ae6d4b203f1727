"""Texts with places in them: `python -m pytest {path} -v`, so that what recurs is told from what is filled in."""

import re

HOLE = "\x00"
MAX_CHARS = 300
_PLACE = re.compile(
    r"(?<![\w/>])(?!/dev/null\b)[\w.@~+-]*(?:/[\w.@+:-]+)+/?"
    r"|(?<![\w/.])[\w-]+\.(?:py|pyi|js|jsx|ts|tsx|java|json|txt|md|cfg|toml|ya?ml|go|rs|c|h|cpp|rb|php|sh|html|css)\b"
)
_ROOT = re.compile(r"/\w+")
_VERB_CHARS = 200
_VERB = re.compile(
    r"\s*(?:(?:cd|source|export) [^&;|\n]*(?:&&|;)\s*|\w+=\S*\s+)*"
    r"([A-Za-z][\w.-]*(?:\s+-[\w-]+)*(?:\s+[a-z][\w-]*(?=\s|$)){0,2})"
)


def split(text: str) -> tuple[str, list[str]]:
    """The text with a hole for each path in it, and the paths. A text without one, or too long, is its own."""
    if len(text) > MAX_CHARS or HOLE in text:
        return text.replace(HOLE, " "), []
    found: list[str] = []

    def place(match: re.Match[str]) -> str:
        if _ROOT.fullmatch(match.group()):
            return match.group()
        found.append(match.group())
        return HOLE

    return _PLACE.sub(place, text), found


def fill(template: str, values: list[str]) -> str:
    """The text again. There must be a value for each hole."""
    head, *rest = template.split(HOLE)
    return head + "".join(value + piece for value, piece in zip(values, rest, strict=True))


def holes(template: str) -> list[str]:
    """For each hole the word before it, which says what belongs in it."""
    pieces = template.split(HOLE)[:-1]
    words = [(piece.rstrip(" -").split() or [""])[-1][:24] for piece in pieces]
    return [word if word.isascii() and word.replace("-", "").isalnum() else "" for word in words]


def verb(text: str) -> str:
    """What a command does, its first words: `python pytest`, `npm run build`; nothing where it begins with none."""
    match = _VERB.match(text[:_VERB_CHARS])
    return " ".join([word for word in match[1].split() if word[0] != "-"])[:40] if match else ""


def hole_name(argument: str, hole: str = "") -> str:
    """What the holes of an argument after a word are called; those after any other word where none is given."""
    return f"{argument}<{hole}>"


def own(argument: str) -> str:
    """The kind of the templates of the texts that a session has given an argument."""
    return f"{argument}<#>"
