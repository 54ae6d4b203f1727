"""Fitting: a sparse softmax for contexts, a conditional logit for the values of an argument; plain numpy."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Example = tuple[Ints, Ints | None, int]
"""The features that hold, the classes that were possible (all, where None), and the place of the right one among
these."""
Flat = tuple[Ints, Ints, Ints, Ints]
"""The slots of all candidates, where each candidate starts, which candidate is the first of each example, and which the
right one."""

EPOCHS = 3
_RATE, _DECAY, _START = 0.1, 0.03, 0.1


def softmax(examples: Sequence[Example], values: Floats, classes: int, epochs: int = EPOCHS, seed: int = 7) -> Floats:
    """Weights [feature, class] of a softmax among each example's own classes, by AdaGrad, averaged over its later
    epochs. `values` say how much each feature weighs; the weights returned are multiplied with them."""
    # [feature, class, weight and sum of squares], so that both are fetched at once
    state = np.zeros((len(values), classes, 2), np.float32)
    state[:, :, 1] = _START
    total = np.zeros((len(values), classes), np.float32)
    order = np.random.default_rng(seed)
    decay, taken = np.float32(_DECAY), 0
    for epoch in range(epochs):
        rate = np.float32(_RATE / (1 + 0.5 * epoch))
        for number in order.permutation(len(examples)):
            rows, columns, right = examples[number]
            grid = rows if columns is None else (rows[:, None], columns)
            value = values[rows]
            block = state[grid]
            weights, squares = block[:, :, 0], block[:, :, 1]
            scores = value @ weights
            scores -= scores.max()
            np.exp(scores, out=scores)
            scores /= scores.sum()
            scores[right] -= 1.0
            step = decay * weights
            step += scores
            step *= value[:, None]
            squares += step * step
            step *= rate
            step /= np.sqrt(squares)
            weights -= step
            state[grid] = block
        if 2 * epoch >= epochs:
            total += state[:, :, 0]
            taken += 1
    return total * (values[:, None] / np.float32(max(taken, 1)))


def logit(flat: Flat, width: int, steps: int = 50, decay: float = 0.3) -> Floats:
    """Weights [slot] of a conditional logit, by full-batch Adam on the regularised likelihood."""
    slots, starts, firsts, right = flat
    weights = np.zeros(width)
    if not len(firsts):
        return weights.astype(np.float32)
    sizes = np.diff(np.append(starts, len(slots)))
    counts = np.diff(np.append(firsts, len(starts)))
    chosen = np.zeros(len(starts))
    chosen[right] = 1.0
    mean, square = np.zeros(width), np.zeros(width)
    for step in range(1, steps + 1):
        scores = np.add.reduceat(weights[slots], starts)
        scores -= np.repeat(np.maximum.reduceat(scores, firsts), counts)
        np.exp(scores, out=scores)
        scores /= np.repeat(np.add.reduceat(scores, firsts), counts)
        gradient = (np.bincount(slots, np.repeat(scores - chosen, sizes), width) + decay * weights) / len(firsts)
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.99 * square + 0.01 * gradient**2
        rate = 0.25 * (1 - 0.9 * step / steps)
        weights -= rate * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.99**step)) + 1e-6)
    return weights.astype(np.float32)


def reach(flat: Flat, weights: Floats, among: int = 3) -> float:
    """The share of examples in which the right candidate is among the best, a little more where they are few. `none of
    these`, the last candidate, is never right."""
    slots, starts, firsts, right = flat
    if not len(firsts):
        return 1.0
    scores = np.add.reduceat(weights[slots], starts)
    lasts = np.append(firsts[1:], len(starts)) - 1
    scores[lasts] = -np.inf
    counts = lasts - firsts + 1
    before = np.add.reduceat(scores > np.repeat(scores[right], counts), firsts)
    hits = int(((before < among) & (right != lasts)).sum())
    return (hits + 1) / (len(firsts) + 1)
