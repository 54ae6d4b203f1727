"""Sets of tools as bits of a number, so that those of thousands are met in no time."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from sglang_paste.predict.memo import Memo
from sglang_paste.predict.patterns import Shape

_REMEMBERED = 256


class Toolset:
    """The tools that patterns know, their shapes, and which tools go together. A set of tools is a number."""

    def __init__(self, shapes: Sequence[Shape], together: Mapping[str, Iterable[str]]) -> None:
        self._numbers: dict[str, list[int]] = {}
        for number, shape in enumerate(shapes):
            self._numbers.setdefault(shape.tool, []).append(number)
        names = sorted(self._numbers.keys() | together.keys() | set().union(*together.values()))
        self._bits = {name: 1 << place for place, name in enumerate(names)}
        self._together = {name: self.of(others) for name, others in together.items()}
        self._all = self.of(self._numbers)
        self.shapes = Memo(self._shapes_of, _REMEMBERED)
        """The numbers of the shapes of a set of tools."""

    def of(self, names: Iterable[str] | None) -> int:
        """The set of these tools, as far as they are known; of all that have shapes, where None."""
        return self._all if names is None else sum({self._bits.get(name, 0) for name in names})

    def names(self, tools: int) -> frozenset[str]:
        """The names of a set of tools."""
        return frozenset(name for name, bit in self._bits.items() if tools & bit)

    def narrowed(self, tools: int, called: Iterable[str]) -> int:
        """Of a set of tools those that went together with the ones called."""
        for name in called:
            tools = tools & self._together.get(name, tools) or tools
        return tools

    def _shapes_of(self, tools: int) -> npt.NDArray[np.int64]:
        found = [number for name in sorted(self.names(tools)) for number in self._numbers.get(name, ())]
        return np.array(found, np.int64)
