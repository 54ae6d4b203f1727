"""One call of a turn while it is being written."""

import json
from collections.abc import Mapping
from typing import Any

from sglang_paste.boundary.scan import Mark, Scanner
from sglang_paste.boundary.shape import Detector, FoundCall, Shape

MAX_CANDIDATES = 4
MAX_PARTIAL = 4
_PROMPT_CHECKS = 8
_NAME_CHECKS = 16


class OpenCall:
    """Follows the call with ordinal `index` from its opening until it is ready.

    `text` is always all text of the answer; the marks say where it could be cut.
    """

    def __init__(self, detector: Detector, index: int, start: int, scanner: Scanner, base: int) -> None:
        self.index = index
        self.tool: str | None = None
        self._detector = detector
        self._shape: Shape = detector.shape
        self._start = start
        self.scanner = scanner
        self._base = base
        self._body: int | None = None
        self._depth: int | None = None
        self._lowest: int | None = None
        self._candidate: str | None = None
        self._emitted = 0
        self._partial = 0
        self._name_checks = 0
        self._checks = 0
        self._next_check = 0

    @property
    def wants_candidates(self) -> bool:
        """May there be a further candidate?"""
        return self._emitted < MAX_CANDIDATES

    def name(self, text: str, mark: Mark) -> str | None:
        """The tool's name, where the mark completes it."""
        if not self._may_name(mark):
            return None
        self._name_checks += 1
        ends_before = self._shape.style == "json" and mark.opens
        body = text[: mark.end - 1] if ends_before else text[: mark.end]
        for ending in self._shape.named:
            if found := self._ask(body + ending):
                self.tool = found.name
                self._enter(mark)
                return found.name
        return None

    def follow(self, mark: Mark) -> None:
        """Note where the arguments of a named call begin."""
        if self._depth is None and mark.opens:
            self._enter(mark)

    def ready(self, text: str, mark: Mark) -> FoundCall | None:
        """The whole call, where the mark closes its arguments."""
        if not self._may_close(text, mark):
            return None
        for ending in self._shape.ready:
            found = self._ask(text[: mark.end] + ending)
            if found and (not ending.startswith("}") or self._is_body(found.arguments, text[: mark.end])):
                return found
        return None

    def failed(self, mark: Mark) -> bool:
        """Is the call over, although it was never ready?"""
        return mark.letter in "})" and (
            mark.depth <= self._base or (self._depth is not None and mark.depth < self._depth - 1)
        )

    def candidate(self, text: str, mark: Mark, required: Mapping[str, tuple[str, ...]]) -> tuple[str, bool] | None:
        """The arguments that are complete so far where the object is still open, and whether all required ones are
        among them."""
        needed = required.get(self.tool or "", ())
        if not self._may_be_candidate(text, mark, needed):
            return None
        if any(text.find(name, self._start, mark.end) < 0 for name in needed):
            if self._partial >= MAX_PARTIAL:
                return None
            self._partial += 1
        else:
            self._checks += 1
            if self._checks >= _PROMPT_CHECKS:
                self._next_check = self._start + (mark.end - self._start) * 3 // 2
        body = text[: mark.end - 1] if mark.letter == "," else text[: mark.end]
        for ending in self._shape.likely:
            found = self._ask(body + ending)
            value = self._new_value(found.arguments, body) if found else None
            if found and value is not None:
                whole = value.keys() >= set(needed)
                self._candidate = found.arguments
                self._emitted += whole
                return found.arguments, whole
        return None

    def _ask(self, text: str) -> FoundCall | None:
        calls = self._detector.calls(text)
        return calls[self.index] if len(calls) > self.index else None

    def _enter(self, mark: Mark) -> None:
        if mark.opens:
            self._depth, self._body = mark.depth, mark.end - 1

    def _may_name(self, mark: Mark) -> bool:
        if self._name_checks >= _NAME_CHECKS and not self.failed(mark):
            return False
        style = self._shape.style
        if style == "json":
            return mark.letter in '"{}'
        return mark.letter == ("(" if style == "python" else ">")

    def _may_close(self, text: str, mark: Mark) -> bool:
        if self._shape.after_call:
            return text.endswith(self._shape.after_call, self._start, mark.end)
        if not mark.closes:
            return False
        if self._depth is not None:
            return mark.depth < self._depth
        lower = self._lowest is None or mark.depth < self._lowest
        self._lowest = mark.depth if lower else self._lowest
        return lower

    def _may_be_candidate(self, text: str, mark: Mark, needed: tuple[str, ...]) -> bool:
        if not self.wants_candidates or mark.end < self._next_check or not self._shape.likely:
            return False
        if self._shape.after_value:
            return text.endswith(self._shape.after_value, self._start, mark.end)
        return self._depth == mark.depth and (not mark.opens or not needed)

    def _new_value(self, arguments: str, body: str) -> dict[str, Any] | None:
        """The arguments, where they are no candidate yet and really those that are written."""
        if arguments == self._candidate or (self._shape.style == "json" and not self._is_body(arguments, body + "}")):
            return None
        return _object(arguments)

    def _is_body(self, arguments: str, text: str) -> bool:
        """Are these really the arguments, and not a default that stands in for ones that are still to come?"""
        return self._body is not None and _object(text[self._body :]) == _object(arguments) is not None


def _object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
