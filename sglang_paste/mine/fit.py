"""Fitting: a sparse softmax for contexts, a conditional logit for the values of an argument; plain numpy."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Example = tuple[Ints, Ints, int]
"""The features that hold, the classes that were possible, and the place of the right one among these."""

EPOCHS = 3
_RATE, _DECAY, _START = 0.1, 0.03, 0.1


def softmax(examples: Sequence[Example], values: Floats, classes: int, epochs: int = EPOCHS, seed: int = 7) -> Floats:
    """Weights [feature, class] of a softmax among each example's own classes, by AdaGrad, averaged over its later
    epochs. `values` say how much each feature weighs; the weights returned are multiplied with them."""
    size = (len(values), classes)
    weights, total = np.zeros(size, np.float32), np.zeros(size, np.float32)
    squares = np.full(size, _START, np.float32)
    order = np.random.default_rng(seed)
    decay, taken = np.float32(_DECAY), 0
    for epoch in range(epochs):
        rate = np.float32(_RATE / (1 + 0.5 * epoch))
        for number in order.permutation(len(examples)):
            rows, columns, right = examples[number]
            grid = rows[:, None], columns[None, :]
            value = values[rows][:, None]
            block = weights[grid]
            scores = (block * value).sum(axis=0)
            scores -= scores.max()
            np.exp(scores, out=scores)
            scores /= scores.sum()
            scores[right] -= 1.0
            step = value * (scores[None, :] + decay * block)
            square = squares[grid] + step * step
            squares[grid] = square
            weights[grid] = block - rate * step / np.sqrt(square)
        if 2 * epoch >= epochs:
            total += weights
            taken += 1
    return total * (values[:, None] / np.float32(max(taken, 1)))


class Choices:
    """Examples of choosing one of several candidates, flat: where each candidate and each example begins."""

    def __init__(self) -> None:
        self.slots: list[int] = []
        self.candidates: list[int] = []
        self.examples: list[int] = []
        self.right: list[int] = []
        self._reached = 0

    def reach(self) -> float:
        """The share of examples in which one of the candidates was right, a little more where they are few."""
        return (self._reached + 1) / (len(self) + 1)

    def add(self, candidates: Sequence[Sequence[int]], right: int) -> None:
        """One example: the slots of each candidate, the last of which is `none of these`, and which was right."""
        self._reached += right < len(candidates) - 1
        self.examples.append(len(self.candidates))
        self.right.append(len(self.candidates) + right)
        for marks in candidates:
            self.candidates.append(len(self.slots))
            self.slots.extend(marks)

    def __len__(self) -> int:
        return len(self.examples)


def logit(choices: Choices, width: int, steps: int = 50, decay: float = 0.3) -> Floats:
    """Weights [slot] of a conditional logit, by full-batch Adam on the regularised likelihood."""
    weights = np.zeros(width)
    if not len(choices):
        return weights.astype(np.float32)
    slots = np.asarray(choices.slots, np.int64)
    starts = np.asarray(choices.candidates, np.int64)
    firsts = np.asarray(choices.examples, np.int64)
    sizes = np.diff(np.append(starts, len(slots)))
    counts = np.diff(np.append(firsts, len(starts)))
    right = np.zeros(len(starts))
    right[np.asarray(choices.right)] = 1.0
    mean, square = np.zeros(width), np.zeros(width)
    for step in range(1, steps + 1):
        scores = np.add.reduceat(weights[slots], starts)
        scores -= np.repeat(np.maximum.reduceat(scores, firsts), counts)
        np.exp(scores, out=scores)
        scores /= np.repeat(np.add.reduceat(scores, firsts), counts)
        gradient = (np.bincount(slots, np.repeat(scores - right, sizes), width) + decay * weights) / len(choices)
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.99 * square + 0.01 * gradient**2
        rate = 0.25 * (1 - 0.9 * step / steps)
        weights -= rate * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.99**step)) + 1e-6)
    return weights.astype(np.float32)
