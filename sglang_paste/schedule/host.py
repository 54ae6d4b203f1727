"""Where KV can lie in host memory as well: who is copied there in time, and who is brought back before it returns.

Of the device's memory those make the best use that are worth most by `schedule.policies`; the others wait on the host.
Copies take time, so that they are made ahead: a session comes back to the device when one return in ten would be too
early for it.
"""

from collections.abc import Sequence

import msgspec

from sglang_paste.schedule.absence import Absence

EARLY = 0.1
# Who goes in the place of another is worth that much more, so that they don't take turns.
MARGIN = 1.5


class Kept(msgspec.Struct, frozen=True):
    """So many tokens of one hold, each of which is worth `value` on the device."""

    number: int
    tokens: int
    value: float


def stays(absence: Absence, elapsed: float, seconds: float) -> bool:
    """Whether a session that has been away for `elapsed` seconds is more likely than not to stay away for as long as
    its KV takes to the host and back, `seconds` each way."""
    return absence.within(2 * seconds, elapsed) < 0.5


def due(absence: Absence, elapsed: float, seconds: float) -> bool:
    """Whether one that has been away for `elapsed` seconds is to be on the device again `seconds` from now."""
    return absence.within(elapsed + seconds, 0.0) >= EARLY * absence.returns(0.0)


def coming(due: Sequence[Kept], held: Sequence[Kept], room: int, limit: int) -> list[int]:
    """Which of those that are due are brought back now, `limit` tokens at most: the most valuable first, into `room`
    (tokens) that no session holds, and then in the place of `held` ones that are worth less."""
    chosen: list[int] = []
    lesser = sorted(held, key=lambda kept: -kept.value)
    for kept in sorted(due, key=lambda kept: (-kept.value, kept.number)):
        if kept.tokens > limit:
            continue
        gained, left = room, list(lesser)
        while gained < kept.tokens and left and MARGIN * left[-1].value < kept.value:
            gained += left.pop().tokens
        if gained >= kept.tokens:
            room, lesser, limit = gained - kept.tokens, left, limit - kept.tokens
            chosen.append(kept.number)
    return chosen
