"""The softmax is learned as a plain one is, however its classes are grouped."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_paste.mine.columns import Columns
from sglang_paste.mine.fit import Example, Floats, Ints, softmax

CLASSES, FEATURES = 7, 5


def plainly(examples: list[Example], values: Floats, epochs: int) -> Floats:
    """One step after the other on whole tables."""
    weights = np.zeros((len(values), CLASSES))
    squares, total, taken = np.full_like(weights, 0.1), np.zeros_like(weights), 0
    order = np.random.default_rng(7)
    for epoch in range(epochs):
        for number in order.permutation(len(examples)):
            rows, allowed, right = examples[number]
            own = np.arange(CLASSES) if allowed is None else allowed
            scores = np.exp(values[rows] @ weights[np.ix_(rows, own)])
            scores /= scores.sum()
            if scores[right] > 0.98:
                continue
            scores[right] -= 1.0
            step = values[rows][:, None] * (0.03 * weights[np.ix_(rows, own)] + scores)
            squares[np.ix_(rows, own)] += step * step
            weights[np.ix_(rows, own)] -= 0.1 / (1 + 0.5 * epoch) * step / np.sqrt(squares[np.ix_(rows, own)])
        if 2 * epoch >= epochs:
            total += weights
            taken += 1
    return (total / taken * values[:, None]).astype(np.float32)


def numbers(most: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, most - 1), min_size=1, max_size=most, unique=True).map(sorted)


@settings(max_examples=60)
@given(st.lists(numbers(CLASSES), max_size=4), st.data())
def test_groups_change_nothing(sets: list[list[int]], data: st.DataObject) -> None:
    choices: list[Ints | None] = [None, np.arange(CLASSES), *[np.array(some, np.int64) for some in sets]]
    examples: list[Example] = []
    for _ in range(data.draw(st.integers(1, 12))):
        rows = np.array(data.draw(numbers(FEATURES)), np.int64)
        allowed = choices[data.draw(st.integers(0, len(choices) - 1))]
        right = data.draw(st.integers(0, (CLASSES if allowed is None else len(allowed)) - 1))
        examples.append((rows, allowed, right))
    values = np.array([1.0, 0.3, 0.15, 1.0, 0.1], np.float32)
    assert softmax(examples, values, CLASSES, 3) == pytest.approx(plainly(examples, values, 3), abs=1e-4)


def test_classes_possible_together_are_in_one_group() -> None:
    sets = [np.array(some) for some in ([0, 2], [2, 5], [1, 3], [0, 1, 2, 3, 4, 5, 6])]
    columns = Columns(sets, CLASSES)
    assert sorted(group.tolist() for group in columns.groups) == [[0, 2, 5], [1, 3], [4, 6]]
    choice = columns.of(sets[1])
    assert choice.refused is not None
    assert [columns.groups[choice.groups[0]][place] for place in choice.places] == [2, 5]
    assert columns.of(sets[3]).refused is None
    assert columns.of(None).refused is None
