"""Holds against a list that does the same the long way."""

from array import array

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sglang_paste.calls import DEFAULT_TENANT, SessionId
from sglang_paste.schedule.holds import TAIL, Holds, Standing, Whose

SESSIONS = [Whose(DEFAULT_TENANT, SessionId(name)) for name in "ab"]
LIMIT = 4


class Entry(msgspec.Struct, eq=False):
    """A hold, with the whole prompt."""

    number: int
    whose: Whose
    prompt: tuple[int, ...]
    held: bool = True
    value: float = float("inf")
    wanted: list[str] = msgspec.field(default_factory=list)
    place: int = 0

    def continued_by(self, prompt: tuple[int, ...]) -> bool:
        length = max(len(self.prompt) - TAIL, len(self.prompt) // 2)
        return self.prompt[:length] == prompt[:length] and length <= len(prompt)

    @property
    def rank(self) -> tuple[bool, float, int]:
        return bool(self.wanted), -self.place if self.wanted else self.value, self.number


class HoldsMachine(RuleBasedStateMachine):
    """Requests that come, end and are aborted, standings, and evictions."""

    make = Holds

    def __init__(self) -> None:
        super().__init__()
        self.holds = self.make(limit=LIMIT, remembered=12)
        self.entries: list[Entry] = []
        self.requests: dict[str, tuple[Whose, tuple[int, ...]]] = {}
        self.number = 0

    @rule(whose=st.sampled_from(SESSIONS), start=st.integers(0, 1), length=st.integers(1, 90), more=st.booleans())
    def queue(self, whose: Whose, start: int, length: int, more: bool) -> None:
        self.number += 1
        request = f"r{self.number}"
        mine = [entry for entry in self.entries if entry.whose == whose]
        prompt = mine[-1].prompt + (7,) * length if more and mine else (start,) * length
        self.requests[request] = whose, prompt
        wanted = self.holds.want(request, whose, array("q", prompt))
        expected = [entry for entry in mine if entry.continued_by(prompt)]
        assert [hold.number for hold in wanted] == [entry.number for entry in expected]
        for entry in expected:
            entry.place = entry.place if entry.wanted else self.number
            entry.wanted.append(request)

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(sorted(self.requests)))
        whose, prompt = self._settled(request)
        hold = self.holds.add(request, whose, array("q", prompt), node=1, tokens=len(prompt))
        self.entries = [entry for entry in self.entries if not self._replaced(entry, whose, prompt)]
        self.entries.append(Entry(hold.number, whose, prompt))
        held = self._held()
        if len(held) > LIMIT:
            held[0].held = False
        known = [hold.number for session in SESSIONS for hold in self.holds.of_session(session)]
        assert len(known) <= 12
        self.entries = [entry for entry in self.entries if entry.number in known]

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def abort(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(sorted(self.requests)))
        self._settled(request)
        self.holds.settle(request)

    @rule(
        values=st.lists(st.tuples(st.integers(0, 20), st.floats(0, 9)), max_size=4), released=st.sets(st.integers(0, 9))
    )
    def stand(self, values: list[tuple[int, float]], released: set[int]) -> None:
        self.holds.apply(Standing(tuple(values), tuple(sorted(released))))
        for number, value in values:
            for entry in self._held():
                if entry.number == number:
                    entry.value = value
        for entry in self.entries:
            entry.held = entry.held and entry.number not in released

    @precondition(lambda self: len(self.holds) > 0)
    @rule(count=st.integers(1, 3))
    def evict(self, count: int) -> None:
        self.holds.give_up(self.holds.in_order()[:count])
        for entry in self._held()[:count]:
            entry.held = False

    @rule()
    def flush(self) -> None:
        assert self.holds.clear() == len(self._held())
        for entry in self.entries:
            entry.held = False

    @invariant()
    def they_agree(self) -> None:
        order = self.holds.in_order()
        assert [hold.number for hold in order] == [entry.number for entry in self._held()]
        assert len(self.holds) == len(order) <= LIMIT
        assert all(hold.node is not None for hold in order)
        assert self.holds.tokens() == sum(len(entry.prompt) for entry in self._held())

    def _held(self) -> list[Entry]:
        return sorted((entry for entry in self.entries if entry.held), key=lambda entry: entry.rank)

    def _settled(self, request: str) -> tuple[Whose, tuple[int, ...]]:
        for entry in self.entries:
            entry.wanted = [wanting for wanting in entry.wanted if wanting != request]
        return self.requests.pop(request)

    def _replaced(self, entry: Entry, whose: Whose, prompt: tuple[int, ...]) -> bool:
        older = entry.whose == whose and len(entry.prompt) < len(prompt) and entry.continued_by(prompt)
        return older and not entry.wanted
