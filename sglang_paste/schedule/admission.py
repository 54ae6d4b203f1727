"""Which waiting requests are held back, because the room they need holds what sessions will be back for at once.

Sessions whose prompts do not fit side by side push each other out at every turn, if each is let in as it comes. A
request is rather held back while the sessions that would lose their place are worth waiting for: while that saves more
seconds of prefill, for each second of waiting, than the second. A session then goes on until it is away for longer.
"""

from collections.abc import Iterable, Sequence

import msgspec

# Prefill seconds saved per second waited.
WORTHWHILE = 1.0
FADE = 0.98
FIRST_GUESS = 2000.0


class Stake(msgspec.Struct, frozen=True):
    """What is lost where a hold is given up: so many `tokens`, and what each is `worth`, in seconds of prefill that are
    saved per second that it stays."""

    tokens: int
    worth: float


class Claim(msgspec.Struct, frozen=True):
    """A waiting request: `need` tokens of room, seconds it has `waited`, and the place among the stakes of what it
    continues itself, if any."""

    need: int
    waited: float
    own: frozenset[int] = frozenset()


class Pace:
    """How fast the engine prefills where nothing else holds it up, tokens per second: the best seen lately."""

    def __init__(self) -> None:
        self._best = 0.0

    @property
    def prefill(self) -> float:
        return self._best or FIRST_GUESS

    def observe(self, tokens: int, seconds: float) -> None:
        """A request's new tokens took so long, perhaps with others in between."""
        if tokens > 0 and seconds > 0:
            self._best = max(self._best * FADE, tokens / seconds)


def held_back(claims: Sequence[Claim], stakes: Sequence[Stake], room: int, bound: float) -> list[int]:
    """The places of the claims that have to wait: they stand in the order in which they are let in.

    `room` is what can be had for nothing, `stakes` are in the order in which they would be given up. From `bound`
    seconds on nobody waits.
    """
    waits: list[int] = []
    left = [stake.tokens for stake in stakes]
    for place, claim in enumerate(claims):
        taken = _taken(left, claim, room)
        lost = sum(tokens * stakes[number].worth for number, tokens in taken)
        if lost > WORTHWHILE and claim.waited < bound:
            waits.append(place)
            continue
        room = max(room - claim.need, 0)
        for number, tokens in taken:
            left[number] -= tokens
        for number in claim.own:
            left[number] = 0
    return waits


def _taken(left: Iterable[int], claim: Claim, room: int) -> list[tuple[int, int]]:
    """What a claim takes of each stake."""
    missing, taken = claim.need - room, []
    for number, tokens in enumerate(left):
        if missing <= 0:
            break
        if number not in claim.own and tokens:
            taken.append((number, min(tokens, missing)))
            missing -= tokens
    return taken
