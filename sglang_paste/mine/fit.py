"""Fitting: a sparse softmax for contexts, a conditional logit for the values of an argument; plain numpy."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sglang_paste.mine.columns import Choice, Columns

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Example = tuple[Ints, Ints | None, int]
"""The features that hold, the classes that were possible (all, where None), and the place of the right one among
these."""
Flat = tuple[Ints, Ints, Ints, Ints]
"""The slots of all candidates, where each candidate starts, which candidate is the first of each example, and which the
right one."""

EPOCHS = 3
_SURE = 0.98
_RATE, _DECAY, _START = 0.1, np.float32(0.03), np.float32(0.1)


def softmax(examples: Sequence[Example], values: Floats, classes: int, epochs: int = EPOCHS, seed: int = 7) -> Floats:
    """Weights [feature, class] of a softmax among each example's own classes, by AdaGrad, averaged over its later
    epochs. `values` say how much each feature weighs; the weights returned are multiplied with them."""
    if not examples:
        return np.zeros((len(values), classes), np.float32)
    columns = Columns([allowed for _, allowed, _ in examples], classes)
    # of each group [feature, weight or sum of squares, class], so that both are fetched at once
    tables = [np.zeros((len(values), 2, len(own)), np.float32) for own in columns.groups]
    for table in tables:
        table[:, 1] = _START
    total = np.zeros((len(values), classes), np.float32)
    order = np.random.default_rng(seed)
    taken = 0
    for epoch in range(epochs):
        rate = np.float32(_RATE / (1 + 0.5 * epoch))
        for number in order.permutation(len(examples)):
            rows, allowed, right = examples[number]
            _learn(tables, rows, values[rows], columns.of(allowed), right, rate)
        if 2 * epoch >= epochs:
            for own, table in zip(columns.groups, tables, strict=True):
                total[:, own] += table[:, 0]
            taken += 1
    return total * (values[:, None] / np.float32(max(taken, 1)))


def _learn(tables: Sequence[Floats], rows: Ints, value: Floats, choice: Choice, right: int, rate: np.float32) -> None:
    """One step of AdaGrad; none where the right class is as good as sure."""
    blocks = [tables[group].take(rows, axis=0) for group in choice.groups]
    shares = [value @ block[:, 0] for block in blocks]
    scores = shares[0] if len(shares) == 1 else np.concatenate(shares)
    refused, column = choice.refused, value[:, None]
    if refused is not None:
        scores[refused] = -np.inf
    scores -= scores.max()
    np.exp(scores, out=scores)
    scores /= scores.sum()
    place = choice.places[right]
    if scores[place] > _SURE:
        return
    scores[place] -= 1.0
    start = 0
    for group, block in zip(choice.groups, blocks, strict=True):
        weights, squares = block[:, 0], block[:, 1]
        end = start + weights.shape[1]
        step = _DECAY * weights
        step += scores[start:end]
        step *= column if refused is None else column * ~refused[start:end]
        squares += step * step
        step *= rate
        step /= np.sqrt(squares)
        weights -= step
        tables[group][rows] = block
        start = end


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
