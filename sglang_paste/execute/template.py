"""Templates of program arguments: a value ends in an argument of its own, never in a shell and never as an option."""

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from sglang_paste.calls import Arguments, canonical
from sglang_paste.errors import BadArguments

ALL = "*"
MAX_ITEM_BYTES = 128 * 1024 - 1
MAX_ARGV_BYTES = 1024 * 1024

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


class Item(msgspec.Struct, frozen=True):
    """One text with placeholders: `pieces` alternates between literal text and argument names."""

    pieces: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Item":
        """Raises ValueError, in one sentence, for braces that do not make a placeholder."""
        pieces, literal, end = [], "", 0
        for token in _TOKEN.finditer(text):
            literal += text[end : token.start()]
            end = token.end()
            if token[0] in ("{{", "}}"):
                literal += token[0][0]
            elif token[1]:
                pieces += [literal, token[1]]
                literal = ""
            else:
                raise ValueError(f"{text!r} has {token[0]!r} without a name; write {{{{ or }}}} for a brace")
        return cls((*pieces, literal + text[end:]))

    @property
    def names(self) -> frozenset[str]:
        """The arguments it stands for."""
        return frozenset(self.pieces[1::2])

    @property
    def bare(self) -> bool:
        """It is one placeholder and nothing else."""
        return len(self.pieces) == 3 and not self.pieces[0] and not self.pieces[2]

    @property
    def begins_with_value(self) -> bool:
        """What it begins with comes from the caller."""
        return len(self.pieces) > 1 and not self.pieces[0]

    def render(self, arguments: Arguments) -> str:
        """The text with each placeholder filled in; an absent argument is empty."""
        return "".join(
            _text(_value(piece, arguments)) if index % 2 else piece for index, piece in enumerate(self.pieces)
        )


class ArgvTemplate:
    """The arguments of a program. Raises ValueError, in one sentence, where it is no template."""

    def __init__(self, argv: tuple[str | tuple[str, ...], ...]) -> None:
        self._groups = [
            (Item.parse(entry),) if isinstance(entry, str) else tuple(map(Item.parse, entry)) for entry in argv
        ]
        self._grouped = [not isinstance(entry, str) for entry in argv]

    @property
    def names(self) -> frozenset[str]:
        """The arguments that it stands for, `*` for all."""
        return frozenset().union(*(item.names for group in self._groups for item in group))

    def render(self, arguments: Arguments) -> list[str]:
        """One text per program argument; raises BadArguments for a value that no program can be given safely."""
        argv: list[str] = []
        options_over = False
        for group, grouped in zip(self._groups, self._grouped, strict=True):
            for item, text in _expand(group, arguments, grouped=grouped):
                if item.begins_with_value and text.startswith("-") and not options_over:
                    raise BadArguments(f"{_named(item)} begins with '-', which the program would take for an option")
                options_over = options_over or item.pieces == ("--",)
                argv.append(_programmable(text, item))
        if sum(len(text.encode()) + 1 for text in argv) > MAX_ARGV_BYTES:
            raise BadArguments(f"the arguments take more than {MAX_ARGV_BYTES} bytes together; send less")
        return argv


def _expand(group: tuple[Item, ...], arguments: Arguments, *, grouped: bool) -> Iterator[tuple[Item, str]]:
    names = frozenset().union(*(item.names for item in group))
    values = {name: _value(name, arguments) for name in names}
    if any(value is None or value == [] for value in values.values()):
        return
    arrays = [name for name, value in values.items() if isinstance(value, list)]
    if len(arrays) > 1:
        raise BadArguments(f"{' and '.join(sorted(arrays))} are arrays, but only one of them can be")
    for element in values[arrays[0]] if arrays else [None]:
        filled = {**arguments, arrays[0]: _scalar(element)} if arrays else arguments
        yield from _render_group(group, filled, grouped=grouped)


def _render_group(group: tuple[Item, ...], arguments: Arguments, *, grouped: bool) -> Iterator[tuple[Item, str]]:
    switches = {item: _value(item.pieces[1], arguments) for item in group if grouped and item.bare}
    if any(value is False for value in switches.values()):
        return
    for item in group:
        if switches.get(item) is not True:
            yield item, item.render(arguments)


def _value(name: str, arguments: Arguments) -> Any:
    return canonical(arguments) if name == ALL else arguments.get(name)


def _scalar(element: Any) -> str:
    return _text(element) if element is not None else "null"


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else canonical(value)


def _programmable(text: str, item: Item) -> str:
    if "\0" in text:
        raise BadArguments(f"{_named(item)} holds a NUL character, which no program can be given")
    size = len(text.encode())
    if size > MAX_ITEM_BYTES:
        raise BadArguments(f"{_named(item)} takes {size} bytes; a program can be given {MAX_ITEM_BYTES} at most")
    return text


def _named(item: Item) -> str:
    return f"the argument {' and '.join(sorted(item.names))}" if item.names else "an item of argv"
