"""Whether a shell command only reads: a small part of the shell's language, and whatever is outside of it may write.

A command is simple commands joined by `|`, `&&`, `||` or `;`, of plain and quoted words. Nothing is expanded but a
path (`src/*.py`, `~/x`), nothing is redirected but to `/dev/null` or from one output to the other. Each simple command
has to begin with the words of one that the operator named, and of programs that can write if told so, only options that
are known to be harmless pass. It is the shell of `sh` and `bash` that is meant, new for each command.
"""

import functools
import re
from collections.abc import Callable, Iterator, Sequence

MAX_CHARS = 8192
Words = tuple[str, ...]

_JOINS = re.compile(r"&&|\|\||[|;](?![|;&])")
_REDIRECTION = re.compile(r"(?:2>&1|[12]?>&2|(?:[12]|&)?>[ \t]*/dev/null)(?=[ \t|;&]|$)")
_PIECE = re.compile(
    r"""(?P<plain>[A-Za-z0-9_./:=,@%+^~-]+)
    |(?P<pattern>[*?])
    |'(?P<single>[^']*)'
    |"(?P<double>(?:[^"$`\\]|\\[^\n])*)"
    |\\(?P<escaped>[\x21-\x7e])""",
    re.VERBOSE,
)
# What has to stand before a pattern: part of a path, or an option's whole name.
_FIXED = re.compile(r"[^-+]|-[^=]+=")
_BLANKS = re.compile(r"[ \t]+")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_IN_DOUBLE = re.compile(r"\\([\"\\$`])")

# What runs other programs, or text as a program, and says so only in its arguments.
_RUNNERS = """
    sh bash dash zsh ksh fish csh tcsh busybox env xargs parallel sudo doas su eval exec source . command builtin
    time timeout nohup nice ionice setsid stdbuf watch script ssh awk gawk mawk perl ruby node php lua tclsh expect
    vi vim ed ex emacs less more man make tee dd xxd rm mv cp ln mkdir rmdir touch chmod chown truncate install
    rsync tar ag ack if then else elif fi for while until do done case esac function select coproc trap alias unalias
    set unset export declare typeset local readonly read mapfile readarray hash enable shopt ulimit umask kill
"""
_PYTHON = re.compile(r"python[0-9.]*")


class Unclear(ValueError):
    """A text that is not wholly understood."""


def only_reads(text: object, commands: Sequence[str]) -> bool:
    """Whether every simple command of `text` is one of `commands` (first words, such as `git log`) with anything behind
    it that is known to be harmless. False for all that is not wholly understood."""
    if not isinstance(text, str) or len(text) > MAX_CHARS:
        return False
    try:
        simple = list(_simple_commands(text))
    except Unclear:
        return False
    known = _known(tuple(commands))
    return all(any(_is(words, command) for command in known) for words in simple)


def fault(command: str) -> str | None:
    """What is wrong with a command that an operator names as one that reads; None where nothing is."""
    try:
        simple = list(_simple_commands(command))
    except Unclear as error:
        return str(error)
    if len(simple) != 1:
        return "it is several commands; name each alone"
    words, program = simple[0], _program(simple[0])
    if _PYTHON.fullmatch(program) and (words[1:2] != ("-m",) or len(words) < 3):
        return f"{program} can do anything; name the module behind -m"
    if program in _RUNNERS.split() or "=" in program:
        return f"{program} can do anything"
    checked = _checked(words)
    if checked == "git":
        return f"git can write; name a part of it that reads, of {', '.join(_GIT_READS)}"
    if checked is not None and len(words) != len(checked.split()):
        return f"the options of {checked} are looked at by themselves; name {checked} alone"
    return None


@functools.lru_cache(maxsize=256)
def _known(commands: tuple[str, ...]) -> tuple[Words, ...]:
    return tuple(next(_simple_commands(command)) for command in commands)


def _is(words: Words, command: Words) -> bool:
    checked = _checked(command)
    harmless = checked is None or _CHECKS[checked](words[len(command) :])
    return words[: len(command)] == command and harmless


def _checked(words: Words) -> str | None:
    """The name under which the options of a command are looked at; None where none is known to write."""
    program = _program(words)
    return next((name for name in (" ".join((program, *words[1:2])), program) if name in _CHECKS), None)


def _program(words: Words) -> str:
    return words[0].rpartition("/")[2]


def _simple_commands(text: str) -> Iterator[Words]:
    """The words of each simple command; raises Unclear, at the latest at the end of the text."""
    if _CONTROL.search(text):
        raise Unclear("it holds a control character")
    words: list[str] = []
    place = 0
    while True:
        blanks = _BLANKS.match(text, place)
        place = blanks.end() if blanks else place
        if place == len(text):
            break
        if join := _JOINS.match(text, place):
            yield _whole(words)
            words, place = [], join.end()
        elif redirection := _REDIRECTION.match(text, place):
            place = redirection.end()
        else:
            word, place = _word(text, place)
            words.append(word)
    yield _whole(words)


def _whole(words: list[str]) -> Words:
    if not words:
        raise Unclear("a command is empty")
    return tuple(words)


def _word(text: str, place: int) -> tuple[str, int]:
    """The word at `place`, its quotes removed, and where it ends."""
    pieces: list[str] = []
    begin = place
    while piece := _PIECE.match(text, place):
        kind, value = piece.lastgroup, piece[piece.lastgroup or 0]
        if kind == "pattern" and not _FIXED.match("".join(pieces)):
            raise Unclear("what a pattern stands for could be an option")
        pieces.append(_IN_DOUBLE.sub(r"\1", value) if kind == "double" else value)
        place = piece.end()
    if place == begin or (place < len(text) and text[place] not in " \t|;&>"):
        raise Unclear(f"{text[place : place + 1]!r} is not understood")
    word = "".join(pieces)
    if text[place : place + 1] == ">" and word.isdigit():
        raise Unclear(f"the output {word} is redirected")
    return word, place


# Below: what programs do with their options.


_FIND_TESTS = """
    name iname path ipath wholename iwholename regex iregex regextype type maxdepth mindepth size mtime mmin atime
    amin ctime cmin newer empty perm user group not a and o or print print0 printf prune depth xdev mount follow
    quit ls readable executable links inum samefile true false H L P daystart
"""


def _options(pattern: str) -> Callable[[Words], bool]:
    """Words that begin with a dash have to match."""
    allowed = re.compile(pattern)
    return lambda rest: all(allowed.fullmatch(word) for word in rest if word.startswith(("-", "+")))


def _nothing_but(pattern: str) -> Callable[[Words], bool]:
    """Every word has to match."""
    allowed = re.compile(pattern)
    return lambda rest: all(allowed.fullmatch(word) for word in rest)


def _without(pattern: str) -> Callable[[Words], bool]:
    """No word may match."""
    refused = re.compile(pattern, re.DOTALL)
    return lambda rest: not any(refused.fullmatch(word) for word in rest)


def _find(rest: Words) -> bool:
    known = re.compile(f"-(?:{'|'.join(_FIND_TESTS.split())}|[0-9]+[cwbkMG]?)")
    return all(known.fullmatch(word) for word in rest if word.startswith("-"))


def _sed(rest: Words) -> bool:
    """Lines by number, printed, of files."""
    if rest[:1] != ("-n",):
        return False
    script, files = rest[1:2], rest[2:]
    printed = bool(script) and re.fullmatch(r"(\d+|\$)(,\+?(\d+|\$))?p", script[0]) is not None
    return printed and not any(word.startswith("-") for word in files)


_GIT = _without(r"--ou.*|--ext.*|--op.*|-O.*")
_GIT_READS = ("log", "diff", "show", "status", "blame", "grep", "ls-files", "rev-parse")
_CHECKS: dict[str, Callable[[Words], bool]] = {
    "find": _find,
    "sed": _sed,
    "uniq": _nothing_but(r"-[cdiuz]+"),
    "sort": _options(r"-[bdfghiMnRrsuVz]+|-[kt].*|--(reverse|unique|numeric-sort|human-numeric-sort|version-sort)"),
    "tree": _options(r"-[aAdfiLpshuDFCSUtrP]+|--(noreport|dirsfirst|du|prune)"),
    "rg": _without(r"--pre.*|--hostname-bin.*"),
    "fd": _without(r"-[A-Za-z0-9]*[xX].*|--exec.*"),
    "date": _nothing_but(r"-[uR]|\+.*"),
    "file": _options(r"-[bLikN]+|--(brief|mime|mime-type)"),
    **{f"git {part}": _GIT for part in _GIT_READS},
    # Any other part of git, and git with options of its own before the part.
    "git": lambda rest: False,
}
