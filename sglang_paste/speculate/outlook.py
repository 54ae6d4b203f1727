"""What the side process knows of a session's way back to the engine, told as directives."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import msgspec

from sglang_paste.calls import SessionId, TenantId
from sglang_paste.events import EngineDirective, Expect, Release, Warm
from sglang_paste.predict.base import Candidate, RunTime

MAX_SESSIONS = 4096

Place = tuple[str, int]  # a turn's request, and the index of a call in it


class _Run(msgspec.Struct, frozen=True):
    began: float
    run_time: RunTime


class _Ahead(msgspec.Struct):
    """Of one session: its tools under way by number, and the odds and seconds of the call it makes next."""

    runs: dict[int, _Run] = msgspec.field(default_factory=dict)
    probability: float = 0.0
    seconds: float = 0.0


class Outlook:
    """Tells the engine what changes; results only where it warms prompts with them. Pure but for `tell`; bounded, the
    sessions heard of least lately go first."""

    def __init__(
        self, tell: Callable[[Sequence[EngineDirective]], None], clock: Callable[[], float], *, warms: bool = True
    ) -> None:
        self._tell = tell
        self._clock = clock
        self._warms = warms
        self._sessions: OrderedDict[tuple[TenantId, SessionId], _Ahead] = OrderedDict()
        self._numbers = 0

    def began(self, tenant: TenantId, session: SessionId | None, run_time: RunTime, began: float) -> int:
        """A tool that the session waits for is under way since `began`; returns its number, 0 where nobody can say
        whose it is."""
        if session is None:
            return 0
        self._numbers += 1
        self._of(tenant, session).runs[self._numbers] = _Run(began, run_time)
        self._expect(tenant, session)
        return self._numbers

    def ended(self, tenant: TenantId, session: SessionId | None, number: int) -> None:
        """A tool is done, or nobody waits for it any more."""
        if session is not None and number in (runs := self._of(tenant, session).runs):
            del runs[number]
            self._expect(tenant, session)

    def known(self, tenant: TenantId, session: SessionId, place: Place | None, content: str) -> None:
        """The result that the session will come back with for the call at `place`."""
        if place is not None and self._warms:
            request, index = place
            warm = Warm(
                tenant=tenant, session=session, time=self._clock(), request=request, index=index, content=content
            )
            self._tell([warm])

    def next_call(self, candidate: Candidate) -> None:
        """A call that the session may make next will have been run early."""
        ahead = self._of(candidate.tenant, candidate.session)
        if candidate.probability * candidate.run_time.p50 > ahead.probability * ahead.seconds:
            ahead.probability, ahead.seconds = candidate.probability, candidate.run_time.p50
            self._expect(candidate.tenant, candidate.session)

    def turn_began(self, tenant: TenantId, session: SessionId) -> None:
        """What was ahead of the session is decided in this turn."""
        ahead = self._of(tenant, session)
        ahead.probability = ahead.seconds = 0.0
        ahead.runs.clear()

    def gone(self, tenant: TenantId, session: SessionId) -> None:
        """The session was closed."""
        self._sessions.pop((tenant, session), None)
        self._tell([Release(tenant=tenant, session=session, time=self._clock())])

    def _expect(self, tenant: TenantId, session: SessionId) -> None:
        now, ahead = self._clock(), self._of(tenant, session)
        left = [(run, now - run.began) for run in ahead.runs.values()]
        self._tell(
            [
                Expect(
                    tenant=tenant,
                    session=session,
                    time=now,
                    p50=max((max(run.run_time.p50 - ran, 0.0) for run, ran in left), default=0.0),
                    p90=max((max(run.run_time.p90 - ran, 0.0) for run, ran in left), default=0.0),
                    hit_probability=ahead.probability,
                    tool_seconds=ahead.seconds,
                )
            ]
        )

    def _of(self, tenant: TenantId, session: SessionId) -> _Ahead:
        key = (tenant, session)
        ahead = self._sessions.setdefault(key, _Ahead())
        self._sessions.move_to_end(key)
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)
        return ahead
