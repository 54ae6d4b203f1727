"""Which classes of a softmax are possible together, so that the weights of these can lie together."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class Choice(NamedTuple):
    """A set of classes that were possible: the groups they are in, where in these groups (one after the other) each of
    them is, and which of the groups' classes were not possible (None: all were)."""

    groups: list[int]
    places: list[int]
    refused: Bools | None


class Columns:
    """The classes in `groups`, made so that most of the sets of possible classes (None: all) are within one."""

    def __init__(self, sets: Iterable[Ints | None], classes: int) -> None:
        distinct = {id(allowed): allowed for allowed in sets if allowed is not None}
        self._group = _grouped(distinct.values(), classes)
        self.groups: list[Ints] = [np.flatnonzero(self._group == group) for group in range(int(self._group.max()) + 1)]
        self._choices = {key: self._choice(allowed) for key, allowed in distinct.items()}
        self._every = self._choice(np.arange(classes))

    def of(self, allowed: Ints | None) -> Choice:
        """The choice among these classes; one of the very sets given."""
        return self._every if allowed is None else self._choices[id(allowed)]

    def _choice(self, allowed: Ints) -> Choice:
        groups: list[int] = np.unique(self._group[allowed]).tolist()
        columns = np.concatenate([self.groups[group] for group in groups])
        places = np.zeros(len(self._group), np.int64)
        places[columns] = np.arange(len(columns))
        refused = np.ones(len(columns), np.bool_)
        refused[places[allowed]] = False
        return Choice(groups, places[allowed].tolist(), refused if refused.any() else None)


def _grouped(sets: Iterable[Ints], classes: int) -> Ints:
    """The group of each class: those of a set are in one, but for the set of all."""
    group = np.arange(classes)
    alone = np.ones(classes, np.bool_)
    for allowed in sets:
        if len(allowed) < classes:
            group[np.isin(group, group[allowed])] = group[allowed[0]]
            alone[allowed] = False
    group[alone] = classes
    found: Ints = np.unique(group, return_inverse=True)[1]
    return found
