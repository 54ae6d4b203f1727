"""The context model at work: a score for each shape and each constant, given what was just called and said."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from sglang_paste.predict import words
from sglang_paste.predict.memo import Memo
from sglang_paste.predict.patterns import Argument, Block, Contexts
from sglang_paste.predict.state import State

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Key = tuple[str, str]
MAX_WORDS = 50_000
UNKNOWN = -1
_NOTHING: Floats = np.zeros(0, np.float32)


class Table:
    """The weights of one softmax: a row for each feature that says something about its columns."""

    __slots__ = ("_rows", "_weights")

    def __init__(self, features: int, block: Block) -> None:
        rows = np.frombuffer(block.rows, "<i4")
        # The last row is of the features that say nothing here.
        self._rows = np.full(features, len(rows), np.min_scalar_type(len(rows)))
        self._rows[rows] = np.arange(len(rows))
        self._weights = np.zeros((len(rows) + 1, block.columns), np.float32)
        self._weights[:-1] = np.frombuffer(block.weights, "<f2").reshape(len(rows), block.columns)

    def scores(self, features: Ints) -> Floats:
        """The sum of the rows of these features, one score a column."""
        found: Floats = np.add.reduce(self._weights.take(self._rows.take(features), axis=0), axis=0)
        return found


class ContextModel:
    """The tables of the shapes and of each argument's constants, and the numbers of the features."""

    def __init__(self, contexts: Contexts, arguments: Iterable[Argument]) -> None:
        self._memos: dict[str, Memo[str, int]] = {}
        self._numbers = {feature: number for number, feature in enumerate(contexts.features)}
        size = len(contexts.features)
        self.shapes = Table(size, contexts.shapes)
        self.constants = {
            (argument.tool, argument.name): Table(size, argument.odds) for argument in arguments if argument.constants
        }

    def numbers(self, features: Iterable[str], mark: str = "") -> set[int]:
        """The numbers of the features that are known, each being the `mark` and what is given."""
        memo = self._memos.get(mark)
        if memo is None:
            start, known = words.crc(mark), self._numbers.get
            memo = self._memos[mark] = Memo(lambda word: known(words.crc(word, start), UNKNOWN), MAX_WORDS)
        found = set(map(memo.__getitem__, features))
        found.discard(UNKNOWN)
        return found

    def numbers_of(self, source: str, text: str) -> set[int]:
        """The numbers of a text's features that are known."""
        return set[int]().union(*[self.numbers(said, mark) for mark, said in words.pieces(source, text)])


class Reading:
    """The features of a session's moments, each text read once."""

    def __init__(self, model: ContextModel) -> None:
        self._model = model
        self._texts: dict[str, tuple[str, Ints, Floats]] = {}
        self._tools: tuple[int, Ints, Floats] | None = None

    def read(self, state: State) -> "Evidence":
        """What speaks for one shape or constant and against another."""
        model = self._model
        calls = _array(model.numbers(words.of_calls(state)))
        if self._tools is None or self._tools[0] != len(state.tools):
            tools = _array(model.numbers(words.of_tools(state)))
            self._tools = (len(state.tools), tools, model.shapes.scores(tools))
        numbers = [calls, self._tools[1]]
        shapes = model.shapes.scores(calls) + self._tools[2]
        for source in words.SOURCES:
            text = state.texts.get(source)
            if text is None:
                continue
            known = self._texts.get(source)
            if known is None or known[0] is not text:
                found = _array(model.numbers_of(source, text))
                known = self._texts[source] = (text, found, model.shapes.scores(found))
            numbers.append(known[1])
            shapes += known[2]
        return Evidence(model, np.concatenate(numbers), shapes)


class Evidence:
    """The features of a moment: `shapes` is the score of each shape."""

    __slots__ = ("_model", "_numbers", "shapes")

    def __init__(self, model: ContextModel, numbers: Ints, shapes: Floats) -> None:
        self._model = model
        self._numbers = numbers
        self.shapes = shapes

    def odds(self, key: Key) -> Floats:
        """The log-probabilities of an argument's constants, and of none of them; nothing where it has none."""
        table = self._model.constants.get(key)
        return _NOTHING if table is None else log_softmax(table.scores(self._numbers))


def features(state: State) -> list[str]:
    """All features of a moment."""
    found = [*words.of_calls(state), *words.of_tools(state)]
    for source in words.SOURCES:
        text = state.texts.get(source)
        if text is not None:
            found += words.of_text(source, text)
    return found


def _array(numbers: set[int]) -> Ints:
    return np.fromiter(numbers, np.int64, len(numbers))


def log_softmax(scores: Floats) -> Floats:
    """Log-probabilities."""
    shifted = scores - scores.max()
    found: Floats = shifted - np.log(np.exp(shifted).sum())
    return found
