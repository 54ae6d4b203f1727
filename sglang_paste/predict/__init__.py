"""Which tool call a session makes next, and how sure that is."""

import time
from collections.abc import Callable, Mapping
from itertools import chain

from sglang_paste.calls import TenantId, ToolCall, canonical
from sglang_paste.events import Event
from sglang_paste.predict.base import Candidate, Predictor, RunTime, Source, ToolShape
from sglang_paste.predict.live import LivePredictor
from sglang_paste.predict.memory import Memory
from sglang_paste.predict.mined import Mined, MinedSession, load
from sglang_paste.predict.pattern import PatternPredictor
from sglang_paste.predict.stream import StreamPredictor

__all__ = ["Candidate", "Mined", "MinedSession", "Predictor", "Predictors", "RunTime", "Source", "ToolShape", "load"]


class Predictors:
    """All predictors as one; where two offer the same call, the surer one is heard.

    `state_dir` is where `patterns.sqlite` is kept, None keeps nothing over a restart. `shapes` says for each tool
    its arguments. `patterns` is a file of `sglang-paste mine`. Raises ConfigError where a file is foreign, newer or
    damaged.
    """

    def __init__(
        self,
        state_dir: str | None,
        shapes: Mapping[str, ToolShape] | None = None,
        *,
        patterns: str | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        mined = None if patterns is None else load(patterns)
        memory = self._memory = Memory(state_dir)
        changed = memory.changed
        self._stream = StreamPredictor(shapes, records=memory.records, changed=changed, clock=clock)
        self._pattern = PatternPredictor(
            self._stream.run_time, shapes, contexts=memory.contexts, changed=changed, clock=clock
        )
        self._live = None if mined is None else LivePredictor(mined, self._stream.run_time, shapes, clock=clock)

    @property
    def failed_saves(self) -> int:
        """How often what was learned could not be written; it stays in memory and is tried again."""
        return self._memory.failed_saves

    def observe(self, event: Event) -> list[Candidate]:
        """Take in an event; the candidates that became worth a look because of it."""
        live = [] if self._live is None else self._live.observe(event)
        return _surest(self._stream.observe(event), self._pattern.observe(event), live)

    def confirm(
        self, call: ToolCall, content: str, duration: float, *, ok: bool, asked: float | None = None
    ) -> list[Candidate]:
        """Learn from an authoritative call that was really made, and its result."""
        self._stream.confirm(call, content, duration, ok=ok, asked=asked)
        live = [] if self._live is None else self._live.confirm(call, content, duration, ok=ok, asked=asked)
        return _surest(self._pattern.confirm(call, content, duration, ok=ok, asked=asked), live)

    def under_way(self, call: ToolCall) -> list[Candidate]:
        """What may follow a call that was made, before its result is there."""
        return [] if self._live is None else self._live.under_way(call)

    def foresee(self, call: ToolCall, content: str, probability: float, claimed_in: float) -> list[Candidate]:
        """What may follow a call that ran early, if it is made; `claimed_in` says in how many seconds that may be."""
        return [] if self._live is None else self._live.foresee(call, content, probability, claimed_in)

    def run_time(self, tenant: TenantId, tool: str) -> RunTime:
        """How long the tool takes for this tenant, or a guess where it never ran."""
        return self._stream.run_time(tenant, tool)

    async def save(self) -> None:
        """Write a batch of what changed, in a thread; never raises for the file's sake."""
        await self._memory.save()

    def close(self) -> None:
        """Write all that changed and close the file. Idempotent."""
        self._memory.close()


def _surest(*offers: list[Candidate]) -> list[Candidate]:
    some = [offer for offer in offers if offer]
    if len(some) < 2:
        return some[0] if some else []
    best: dict[tuple[str, str], Candidate] = {}
    for candidate in chain.from_iterable(some):
        key = (candidate.tool, canonical(candidate.arguments))
        if key not in best or best[key].probability < candidate.probability:
            best[key] = candidate
    return list(best.values())
