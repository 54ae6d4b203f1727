"""What mining found: tools by context, arguments by ways, and how far it can be trusted; plain data."""

import msgspec

from sglang_paste.predict.ways import Way

VERSION = 1


class Shape(msgspec.Struct, frozen=True):
    """A tool with the names of the arguments given, and how long such calls took, in seconds."""

    tool: str
    names: tuple[str, ...]
    p50: float = 0.5
    p90: float = 2.0


class Argument(msgspec.Struct):
    """How the values of one argument are found (`ways`, `constants`) and chosen (`weights`, by slot)."""

    tool: str
    name: str
    ways: list[Way]
    constants: list[tuple[str, str]]
    weights: bytes
    none: bytes


class Contexts(msgspec.Struct):
    """The tool model: for each feature (by its CRC) a row of weights, one a shape, as little-endian float16."""

    features: list[int]
    weights: bytes


class Patterns(msgspec.Struct):
    """All that is mined. `k` is the number of tasks a constant or a word was seen in at least."""

    k: int
    shapes: list[Shape]
    contexts: Contexts
    arguments: list[Argument]
    calibration: list[tuple[float, float]]
    together: dict[str, list[str]]
    version: int = VERSION
