"""What is predicted is told to the engine as well: a call that the model is likely to write is a draft of its text."""

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from sglang_paste.calls import SessionId, TenantId, ToolCall
from sglang_paste.events import (
    MAX_FORESEEN,
    MAX_FORESEEN_CHARS,
    CallNamed,
    CallOpened,
    Draft,
    EngineDirective,
    Event,
    ForeseenCall,
    SessionEnded,
    TurnEnded,
)
from sglang_paste.predict import Candidate, RunTime

MAX_SESSIONS = 1024
# A draft of a call that is not made costs a step's width, no more.
FLOOR = 0.05

Key = tuple[TenantId, SessionId]


class Learning(Protocol):
    """predict.Predictors, as far as the side process uses it."""

    def observe(self, event: Event) -> list[Candidate]: ...

    def confirm(
        self, call: ToolCall, content: str, duration: float, *, ok: bool, asked: float | None = None
    ) -> list[Candidate]: ...

    def under_way(self, call: ToolCall) -> list[Candidate]: ...

    def foresee(self, call: ToolCall, content: str, probability: float, claimed_in: float) -> list[Candidate]: ...

    def run_time(self, tenant: TenantId, tool: str) -> RunTime: ...

    async def save(self) -> None: ...


class Drafting:
    """Learning that tells what it expects of a session's next turn, from its last turn's end to its next one's. Calls
    further ahead are not told. Bounded; the sessions heard of least lately go first."""

    def __init__(
        self, learning: Learning, tell: Callable[[Sequence[EngineDirective]], None], clock: Callable[[], float]
    ) -> None:
        self._learning = learning
        self._tell = tell
        self._clock = clock
        self._sessions: OrderedDict[Key, tuple[ForeseenCall, ...]] = OrderedDict()
        self.under_way = learning.under_way
        self.foresee = learning.foresee
        self.run_time = learning.run_time
        self.save = learning.save

    def observe(self, event: Event) -> list[Candidate]:
        """As predict.Predictors.observe."""
        candidates = self._learning.observe(event)
        if isinstance(event, TurnEnded | SessionEnded):
            self._sessions.pop((event.tenant, event.session), None)
        else:
            self._offer(candidates, anew=isinstance(event, CallOpened | CallNamed))
        return candidates

    def confirm(
        self, call: ToolCall, content: str, duration: float, *, ok: bool, asked: float | None = None
    ) -> list[Candidate]:
        """As predict.Predictors.confirm."""
        candidates = self._learning.confirm(call, content, duration, ok=ok, asked=asked)
        self._offer(candidates)
        return candidates

    def _offer(self, candidates: Iterable[Candidate], *, anew: bool = False) -> None:
        by_session: dict[Key, list[ForeseenCall]] = {}
        for candidate in candidates:
            call = _foreseen(candidate)
            if call is not None:
                by_session.setdefault((candidate.tenant, candidate.session), []).append(call)
        for key, calls in by_session.items():
            self._say(key, calls, anew)

    def _say(self, key: Key, calls: list[ForeseenCall], anew: bool) -> None:
        """The likeliest of these and those that were told before; of these alone where more is known now (`anew`)."""
        told = self._sessions.pop(key, ())
        known = {(call.tool, call.arguments): call for call in (*(() if anew else told), *calls)}
        best = tuple(sorted(known.values(), key=lambda call: -call.probability)[:MAX_FORESEEN])
        self._sessions[key] = best
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)
        if best != told:
            self._tell([Draft(tenant=key[0], session=key[1], time=self._clock(), calls=best)])


def _foreseen(candidate: Candidate) -> ForeseenCall | None:
    """What the engine is told of a candidate: nothing of one that it reads itself, or that is unlikely or huge."""
    if candidate.source == "stream" or candidate.probability < FLOOR:
        return None
    arguments = json.dumps(candidate.arguments, ensure_ascii=False)
    if len(arguments) > MAX_FORESEEN_CHARS:
        return None
    return ForeseenCall(tool=candidate.tool, arguments=arguments, probability=candidate.probability)
