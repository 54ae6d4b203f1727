"""The context model at work: a score for each shape and each constant, given what was just called and said."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sglang_paste.predict import words
from sglang_paste.predict.patterns import Contexts
from sglang_paste.predict.state import State

Floats = npt.NDArray[np.float32]


class ContextModel:
    """Rows of weights by feature."""

    def __init__(self, contexts: Contexts) -> None:
        self._rows = {feature: row for row, feature in enumerate(contexts.features)}
        shape = (len(contexts.features), contexts.columns)
        self._weights = np.frombuffer(contexts.weights, "<f2").reshape(shape).astype(np.float32)

    def scores(self, features: Sequence[str]) -> Floats:
        """The sum of the rows of these features, one score a column."""
        rows = [row for row in map(self._rows.get, map(words.crc, features)) if row is not None]
        found: Floats = self._weights[rows].sum(axis=0)
        return found


class Reading:
    """The scores of a session's context, each text read once."""

    def __init__(self, model: ContextModel) -> None:
        self._model = model
        self._texts: dict[str, tuple[str, Floats]] = {}

    def scores(self, state: State) -> Floats:
        """One score a column."""
        total = self._model.scores(list(words.of_calls(state)))
        for source in words.SOURCES:
            text = state.texts.get(source)
            if text is None:
                continue
            known = self._texts.get(source)
            if known is None or known[0] is not text:
                known = self._texts[source] = (text, self._model.scores(words.of_text(source, text)))
            total = total + known[1]
        return total


def features(state: State) -> list[str]:
    """All features of a moment."""
    found = list(words.of_calls(state))
    for source in words.SOURCES:
        text = state.texts.get(source)
        if text is not None:
            known = state.read.get(source)
            if known is None or known[0] is not text:
                known = state.read[source] = (text, words.of_text(source, text))
            found += known[1]
    return found


def log_softmax(scores: Floats) -> Floats:
    """Log-probabilities."""
    shifted = scores - scores.max()
    found: Floats = shifted - np.log(np.exp(shifted).sum())
    return found
