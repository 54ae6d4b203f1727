"""Values that are made once for each key."""

from collections.abc import Callable
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Memo(dict[K, V]):
    """What `make` gives for each key, made when it is first asked for; all is forgotten when there are too many.

    A plain dictionary, so that `map(memo.__getitem__, keys)` runs without a call for each key.
    """

    def __init__(self, make: Callable[[K], V], limit: int) -> None:
        self._make = make
        self._limit = limit

    def __missing__(self, key: K) -> V:
        if len(self) >= self._limit:
            self.clear()
        value = self[key] = self._make(key)
        return value
