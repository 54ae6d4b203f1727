"""What mining found: tools by context, arguments by ways, and how far it can be trusted; plain data."""

import msgspec

from sglang_paste.predict.levels import Level
from sglang_paste.predict.recall import Recollection
from sglang_paste.predict.ways import Way


class Shape(msgspec.Struct, frozen=True):
    """A tool with the names of the arguments given, and how long such calls took, in seconds."""

    tool: str
    names: tuple[str, ...]
    p50: float | None = None
    p90: float | None = None


class Block(msgspec.Struct, frozen=True):
    """Weights of a softmax over `columns` classes: the features that have a row, by number, as little-endian int32,
    and the rows as little-endian float16."""

    columns: int
    rows: bytes = b""
    weights: bytes = b""


class Argument(msgspec.Struct):
    """How the values of one argument are found (`ways`, `constants`) and chosen.

    `weights` are little-endian float32, by slot (see `slots`), `odds` say how likely each constant is in a context, and
    last how likely none of them. A constant of the form `t` is a template; `<word>` after an argument's name is what
    fills the holes after this word. `reach` is the share of values that were among the candidates.
    """

    tool: str
    name: str
    ways: list[Way]
    constants: list[tuple[str, str]]
    odds: Block = Block(0)
    weights: bytes = b""
    reach: float = 1.0


class Contexts(msgspec.Struct):
    """The features of a context, each by its CRC, and what they say of the shapes."""

    features: list[int]
    shapes: Block


class Patterns(msgspec.Struct):
    """All that is mined. A constant, a word or a template was seen in at least `k` tasks.

    `together` says for each tool which ones were called in the same session, `levels` how its probabilities turned out,
    and under "" how those of all did; `saying` the same where the model has said what it says before it calls.
    `recollections` are each one tenant's,
    verbatim, `trust` says how often their grades are right, and `recalled` how the probabilities made of these turned
    out. `tenant` is whose sessions were mined, and who may profit;
    empty where they are nobody's, or were merged for all.
    """

    k: int
    shapes: list[Shape]
    contexts: Contexts
    arguments: list[Argument]
    together: dict[str, list[str]]
    levels: dict[str, Level] = {}
    saying: dict[str, Level] = {}
    trust: dict[str, float] = {}
    recalled: dict[str, Level] = {}
    recollections: dict[str, Recollection] = {}
    tenant: str = ""
