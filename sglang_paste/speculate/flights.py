"""Authoritative calls under way, and the requests that wait for them."""

import anyio

from sglang_paste.calls import SessionId, ToolCall
from sglang_paste.errors import CallError, Unavailable
from sglang_paste.execute.base import Outcome
from sglang_paste.gateway.api import Answer, How

CLIENT_LEFT = "the call was cancelled because its client hung up"
STOPPING = "the side process is stopping; call again"
FAILED = "the call failed inside the side process, whose log says why"


class Flight:
    """One execution. It goes on to its end without its clients if it has a call id or writes."""

    def __init__(self, call: ToolCall, session: SessionId | None, asked: float, *, abandonable: bool) -> None:
        self.call = call
        self.session = session
        self.asked = asked
        self.abandonable = abandonable
        self.waiting = 0
        self.landed_at = 0.0
        self.scope = anyio.CancelScope()
        self._result: tuple[Outcome, How] | CallError | None = None
        self._landed = anyio.Event()

    @property
    def landed(self) -> bool:
        return self._result is not None

    def land(self, result: tuple[Outcome, How] | CallError, now: float) -> None:
        """Tell all who wait; the first result counts."""
        if self._result is None:
            self._result, self.landed_at = result, now
            self._landed.set()

    def crash(self, now: float, *, stopping: bool) -> None:
        """There will be no result, where there is none yet."""
        left = CLIENT_LEFT if self.scope.cancel_called else FAILED
        self.land(Unavailable(STOPPING if stopping else left), now)

    async def landing(self) -> None:
        """Until there is a result."""
        await self._landed.wait()

    async def result(self) -> tuple[Outcome, How]:
        """What came of it; raises CallError where nothing did."""
        await self._landed.wait()
        if not isinstance(self._result, tuple):
            raise self._result or Unavailable(FAILED)
        return self._result


class Seat:
    """A request's place in a flight: gateway.api.Ticket."""

    def __init__(self, flight: Flight, asked: float, *, first: bool) -> None:
        self._flight = flight
        self._asked = asked
        self._first = first
        self._left = False
        flight.waiting += 1

    def ready(self) -> Answer | None:
        """A flight is never there already; what is ready needs no seat."""
        return None

    async def wait(self) -> Answer:
        """The answer; who came later with the same call id has joined."""
        outcome, how = await self._flight.result()
        waited = max(0.0, self._flight.landed_at - self._asked)
        return Answer(outcome=outcome, how=how if self._first else "joined", waited=waited)

    def leave(self) -> None:
        """The last to leave cancels a flight that nobody needs."""
        if self._left:
            return
        self._left = True
        self._flight.waiting -= 1
        if not self._flight.waiting and self._flight.abandonable and not self._flight.landed:
            self._flight.scope.cancel()


class Settled:
    """An answer that was there at once: gateway.api.Ticket."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def ready(self) -> Answer | None:
        """It is."""
        return self._answer

    async def wait(self) -> Answer:
        """At once."""
        return self._answer

    def leave(self) -> None:
        """Nothing is under way."""
