"""Errors as callers see them: an HTTP status, a type and one sentence."""

from typing import NamedTuple

from sglang_paste.errors import BadArguments, CallError, OutcomeUnknown, Unavailable, UnknownTool
from sglang_paste.execute.base import Failure


class Problem(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message


class _Kind(NamedTuple):
    status: int
    name: str


_ERRORS: dict[type[CallError], _Kind] = {
    UnknownTool: _Kind(404, "unknown_tool"),
    BadArguments: _Kind(400, "bad_arguments"),
    OutcomeUnknown: _Kind(409, "outcome_unknown"),
    Unavailable: _Kind(503, "unavailable"),
}
_FAILURES: dict[Failure, _Kind] = {
    "timeout": _Kind(504, "tool_timed_out"),
    "crashed": _Kind(502, "tool_crashed"),
    "cancelled": _Kind(503, "cancelled"),
    "unavailable": _Kind(503, "unavailable"),
}


def problem_of(error: CallError) -> Problem:
    """The answer to a call that could not be accepted."""
    kind = _ERRORS.get(type(error), _Kind(400, "bad_request"))
    return Problem(kind.status, kind.name, str(error))


def problem_of_failure(failure: Failure, sentence: str) -> Problem:
    """The answer to a call whose run came to nothing."""
    kind = _FAILURES[failure]
    return Problem(kind.status, kind.name, sentence)
