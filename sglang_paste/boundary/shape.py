"""What is known of a tool-call format without parsing it: where calls open, and what completes a text that stops in
the middle of one. The parsing itself is always the detector's."""

import re
from typing import Literal, NamedTuple, Protocol

import msgspec

Style = Literal["json", "python", "markup", "opaque"]


class FoundCall(NamedTuple):
    """A call as the API would return it; `arguments` is the JSON text of one object."""

    name: str
    arguments: str


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """Hints about a format; a wrong one costs time or promptness, never a wrong call.

    `opening` matches what opens a call. `repeats` says that every call has its own opening; otherwise a further call
    is known by its opening bracket. `named`, `likely` and `ready` are the endings that make a whole text of one that
    stops after the tool's name, inside the arguments object, and after it. `after_value` and `after_call` are the
    closing tags of a markup format. Where `opened` is given, the text up to the opening, or to the end of its group, is
    asked about with that appended.
    """

    style: Style
    opening: re.Pattern[str]
    repeats: bool = True
    opened: str = ""
    named: tuple[str, ...] = ()
    likely: tuple[str, ...] = ()
    ready: tuple[str, ...] = ("",)
    after_value: tuple[str, ...] = ()
    after_call: tuple[str, ...] = ()


class Detector(Protocol):
    """The host's own parser of one request's output."""

    shape: Shape

    def answer_start(self, text: str, *, whole: bool) -> int:
        """Where reasoning ends and calls count, as an index into `text`; -1 while it lasts.

        With `whole` the text is all there will be.
        """

    def opened(self, text: str) -> bool:
        """Does the text contain a call, be it unfinished?"""

    def calls(self, text: str) -> list[FoundCall]:
        """The calls the API would return, were this the whole output."""


def json_shape(opening: str, end: str, *, repeats: bool = True, also: tuple[str, ...] = ()) -> Shape:
    """The shape of a format whose arguments are a JSON object; `end` follows a closed arguments object, and begins
    with the brace of the object around it where there is one. `also` are endings of a variant without one."""
    wrapped = end.startswith("}")
    ready = ["", end.lstrip("}"), end, *also]
    return Shape(
        style="json",
        opening=re.compile(opening),
        repeats=repeats,
        named=(*((end,) if wrapped else ("{}" + end,)), *("{}" + other for other in also)),
        likely=tuple("}" + ending for ending in (end, *also)),
        ready=tuple(dict.fromkeys(ready)),
    )


def opaque_shape(opening: str, end: str) -> Shape:
    """The shape of a format of which only the markers are known: a call is ready when its end marker is there."""
    return Shape(style="opaque", opening=re.compile(opening), after_call=(end,) if end else ())
