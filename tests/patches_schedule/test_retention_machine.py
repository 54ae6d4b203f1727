"""Whatever requests, evictions and flushes come in whatever order: nothing leaks, nothing stays pinned, and every
request gets the room that the cache would have without holds."""

from collections.abc import Sequence
from typing import Any

import cache_world
import pytest
from cache_world import World
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from sglang_paste.patches.retention import Retention
from sglang_paste.patches.retention_cache import RetainingCache
from sglang_paste.schedule.holds import Hold, Standing

pytestmark = pytest.mark.host
SIZE = 128


class CacheMachine(RuleBasedStateMachine):
    """Sessions and strangers on one small cache."""

    core = "rust"
    window: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.core, size=SIZE, budget=SIZE * 3 // 4, window=self.window)
        self.texts: dict[str, list[int]] = {}
        self.waiting: list[Any] = []
        self.running: list[Any] = []
        self.names = 0

    @precondition(lambda self: len(self.waiting) < 3)
    @rule(session=st.sampled_from(["a", "b", "c", "d", None]), length=st.integers(1, 50), anew=st.booleans())
    def queue(self, session: str | None, length: int, anew: bool) -> None:
        self.names += 1
        text = self.texts.get(session or "", []) if session and not anew else []
        text = (
            [*text, *(self.names * 1000 + place for place in range(length))][-SIZE // 2 :]
            if text
            else [self.names * 1000 + place for place in range(length)]
        )
        if session:
            self.texts[session] = text
        self.waiting.append(self.world.queue(session, text))

    @precondition(lambda self: not self.waiting and len(self.running) < 4)
    @rule(session=st.sampled_from(["a", "b", "c", "d", None]), length=st.integers(20, 50))
    def turn(self, session: str | None, length: int) -> None:
        self.queue(session, length, anew=False)
        self.admit()
        if self.running:
            self.world.finish(self.running.pop())

    @precondition(lambda self: self.waiting and len(self.running) < 4)
    @rule()
    def admit(self) -> None:
        """As the scheduler does: where there is room, by what the cache says there is."""
        req = self.waiting[0]
        if len(req.origin_input_ids) <= self.world.room():
            self.world.admit(self.waiting.pop(0))
            self.running.append(req)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), kept=st.booleans())
    def finish(self, data: st.DataObject, kept: bool) -> None:
        req = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.world.finish(req, checkpoint=kept)

    @precondition(lambda self: self.waiting)
    @rule()
    def abort(self) -> None:
        self.world.abort(self.waiting.pop())

    @rule(values=st.lists(st.tuples(st.integers(1, 30), st.floats(0, 9)), max_size=4), gone=st.sets(st.integers(1, 30)))
    def stand(self, values: list[tuple[int, float]], gone: set[int]) -> None:
        self.world.retention.holds.apply(Standing(tuple(values), tuple(gone)))

    @precondition(lambda self: not self.running)
    @rule()
    def flush(self) -> None:
        self.world.flush()

    @invariant()
    def nothing_leaks(self) -> None:
        private = sum(req.kv.kv_allocated_len - req.kv.cache_protected_len for req in self.running)
        self.world.check(private)

    @invariant()
    def only_requests_pin(self) -> None:
        used = sum(req.prefix_len for req in self.running)
        assert self.world.cache.full_protected_size() <= used


class PythonCore(CacheMachine):
    """The same on the other tree core."""

    core = "python"


class RustWindowed(CacheMachine):
    """A model with windowed layers, whose holds are locks."""

    window = 16


class PythonWindowed(RustWindowed):
    """The same on the other tree core."""

    core = "python"


@pytest.mark.timeout(300)
@pytest.mark.parametrize("machine", [CacheMachine, PythonCore, RustWindowed, PythonWindowed])
def test_the_cache_keeps_its_promises(machine: type[CacheMachine]) -> None:
    run_state_machine_as_test(machine, settings=settings(max_examples=60, stateful_step_count=60))


class KeepsItsPins(RetainingCache):
    """What was pinned for an eviction stays pinned."""

    def _open(self, shut: list[Any]) -> Hold:
        hold: Hold = shut.pop()[0]
        return hold


class KeepsWhatWasOpen(Retention):
    """What an eviction may have taken counts as held."""

    def give_up(self, holds: Sequence[Hold]) -> None:
        pass


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "broken", [(cache_world, "RetainingCache", KeepsItsPins), (cache_world, "Retention", KeepsWhatWasOpen)]
)
def test_the_machine_finds_what_is_broken(monkeypatch: pytest.MonkeyPatch, broken: tuple[object, str, type]) -> None:
    monkeypatch.setattr(*broken)
    quick = settings(
        max_examples=500, stateful_step_count=60, database=None, report_multiple_bugs=False, phases=(Phase.generate,)
    )
    with pytest.raises((AssertionError, KeyError)):
        run_state_machine_as_test(PythonCore, settings=quick)
