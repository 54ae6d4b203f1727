"""How good predictions were, counted session by session, seeing nothing that came later."""

import time
from array import array
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np

from sglang_paste.calls import Arguments, call_key
from sglang_paste.config import Limits
from sglang_paste.errors import BadArguments
from sglang_paste.mine.derive import Earlier, base_key
from sglang_paste.mine.messages import Step, steps
from sglang_paste.mine.records import Call, Session

BINS = 10
OFFERED = 5
MOST_TOOLS = 3


class Guess(Protocol):
    """What a predictor expects."""

    @property
    def tool(self) -> str: ...
    @property
    def arguments(self) -> Arguments: ...
    @property
    def probability(self) -> float: ...


class Online(Protocol):
    """A session that is being predicted; `predict.load(path).session()` is one."""

    def observe(self, message: Mapping[str, Any]) -> None:
        """The next message, in the form of the OpenAI chat API."""

    def observe_partial(self, text: str) -> None:
        """All text of the next message so far, until it is observed as a whole."""

    def candidates(self, k: int, tool: str | None = None) -> Sequence[Guess]:
        """The `k` likeliest next calls, best first; with `tool`, given that this is the tool."""

    def tools(self) -> Mapping[str, float]:
        """The probability of each tool."""


class Reliability(msgspec.Struct):
    """Predicted against observed in `BINS` equal bins of the probability: how many, their sum, how many were right."""

    counts: list[int] = msgspec.field(default_factory=lambda: [0] * BINS)
    sums: list[float] = msgspec.field(default_factory=lambda: [0.0] * BINS)
    hits: list[int] = msgspec.field(default_factory=lambda: [0] * BINS)

    def add(self, probability: float, hit: bool) -> None:
        """Count one prediction."""
        place = min(int(probability * BINS), BINS - 1)
        self.counts[place] += 1
        self.sums[place] += probability
        self.hits[place] += hit

    @property
    def error(self) -> float | None:
        """The expected calibration error: how far the bins' means are from their hit rates, weighted by count."""
        gap = sum(abs(total - hits) for total, hits in zip(self.sums, self.hits, strict=True))
        return gap / sum(self.counts) if any(self.counts) else None

    def chance(self, draws: int) -> float | None:
        """The error that 95 % of `draws` stay below whose hits come as often as these probabilities say."""
        if not any(self.counts):
            return None
        counts, sums = np.array(self.counts), np.array(self.sums)
        hits = np.random.default_rng(0).binomial(counts, sums / np.maximum(counts, 1), (draws, BINS))
        return float(np.quantile(np.abs(hits - sums).sum(axis=1) / counts.sum(), 0.95))


class Tally(msgspec.Struct):
    """What one predictor did on one source. `calls` counts the decisions: assistant turns with a call.

    `exact` are hits among the first 1, 3, 5 candidates and `tools` and `named` among the first 1, 3; `said` are exact
    hits where what the model says before its calls is known, `said_first` those of the first candidate. Times are
    seconds of recorded tool runs: all of them, those of calls that were among the candidates, those of calls with the
    same widest call as a candidate, those with the same widest call as an earlier one that is still good, and of
    either.
    """

    turns: int = 0
    calls: int = 0
    tools: list[int] = msgspec.field(default_factory=lambda: [0, 0])
    exact: list[int] = msgspec.field(default_factory=lambda: [0, 0, 0])
    named: list[int] = msgspec.field(default_factory=lambda: [0, 0])
    said: list[int] = msgspec.field(default_factory=lambda: [0, 0, 0])
    first: Reliability = msgspec.field(default_factory=Reliability)
    said_first: Reliability = msgspec.field(default_factory=Reliability)
    offered: Reliability = msgspec.field(default_factory=Reliability)
    useful: int = 0
    wasted: int = 0
    seconds: float = 0.0
    seconds_exact: list[float] = msgspec.field(default_factory=lambda: [0.0, 0.0, 0.0])
    seconds_wider: float = 0.0
    seconds_earlier: float = 0.0
    seconds_derived: float = 0.0
    tasks: dict[str, list[int]] = msgspec.field(default_factory=dict)


class Scorer:
    """Scores sessions with one predictor. `inert` holds argument names, alone or as `tool.argument`.

    A candidate counts as run early at the planner's own terms: at least its minimum probability, and no more at once
    than one session may have.
    """

    def __init__(
        self, inert: Collection[str] = (), limits: Limits | None = None, clock: Callable[[], int] = time.perf_counter_ns
    ) -> None:
        self._inert = frozenset(inert)
        self._limits = limits or Limits()
        self._clock = clock
        self.nanoseconds = array("q")
        self.observed = array("q")

    def score(self, session: Session, online: Online, tally: Tally, task: str) -> None:
        """Predict every turn of the session from what was observed before it, and count."""
        earlier = Earlier()
        spent = 0
        for step in steps(session):
            if step.turn.role == "assistant":
                begun = self._clock()
                offered = list(online.candidates(OFFERED))
                self.nanoseconds.append(spent + self._clock() - begun)
                spent = 0
                self._decide(step, offered, online, tally, earlier, task)
            for message in step.messages:
                begun = self._clock()
                online.observe(message)
                spent += self._clock() - begun

    def _decide(
        self, step: Step, offered: list[Guess], online: Online, tally: Tally, earlier: Earlier, task: str
    ) -> None:
        keys = [self._key(guess) for guess in offered]
        made = [self._key(call) for call in step.calls]
        tally.turns += 1
        self._count_runs(offered, keys, made, tally)
        if step.calls:
            tally.calls += 1
            self._count_first(step.calls[0], made[0], offered, keys, online, tally, task)
            self._count_time(step, made, offered, keys, tally, earlier)
            self._count_said(step.turn.content, made[0], offered, online, tally)

    def _count_runs(self, offered: list[Guess], keys: list[str], made: list[str], tally: Tally) -> None:
        run = [
            key
            for guess, key in zip(offered, keys, strict=True)
            if guess.probability >= self._limits.minimum_probability
        ][: self._limits.per_session]
        useful = sum(key in made for key in run)
        tally.useful += useful
        tally.wasted += len(run) - useful

    def _count_first(
        self, call: Call, made: str, offered: list[Guess], keys: list[str], online: Online, tally: Tally, task: str
    ) -> None:
        """Only the first call of a turn: the others of the turn come with it."""
        place = keys.index(made) if made in keys else OFFERED
        _count(tally.exact, (1, 3, 5), place)
        of_task = tally.tasks.setdefault(task, [0, 0, 0])
        of_task[0] += 1
        of_task[1] += place < 1
        of_task[2] += place < 3
        for number, (guess, key) in enumerate(zip(offered, keys, strict=True)):
            tally.offered.add(guess.probability, key == made)
            if number == 0:
                tally.first.add(guess.probability, key == made)
        shares = online.tools()
        ranked = sorted(shares, key=lambda tool: (-shares[tool], tool))[:MOST_TOOLS]
        _count(tally.tools, (1, 3), ranked.index(call.name) if call.name in ranked else MOST_TOOLS)
        given = [self._key(guess) for guess in online.candidates(3, tool=call.name)]
        _count(tally.named, (1, 3), given.index(made) if made in given else OFFERED)

    def _count_said(self, text: str, made: str, offered: list[Guess], online: Online, tally: Tally) -> None:
        if text:
            online.observe_partial(text)
            offered = list(online.candidates(OFFERED))
        keys = [self._key(guess) for guess in offered]
        _count(tally.said, (1, 3, 5), keys.index(made) if made in keys else OFFERED)
        if offered:
            tally.said_first.add(offered[0].probability, keys[0] == made)

    def _count_time(
        self, step: Step, made: list[str], offered: list[Guess], keys: list[str], tally: Tally, earlier: Earlier
    ) -> None:
        wide = {base_key(guess.tool, guess.arguments, self._of(guess.tool)) for guess in offered} - {None}
        for call, key, seconds in zip(step.calls, made, step.durations, strict=True):
            widest = base_key(call.name, call.arguments, self._of(call.name))
            taken = max(seconds or 0.0, 0.0)
            tally.seconds += taken
            for number, k in enumerate((1, 3, 5)):
                tally.seconds_exact[number] += taken * (key in keys[:k])
            of_candidate, of_earlier = widest in wide, earlier.has(widest)
            tally.seconds_wider += taken * of_candidate
            tally.seconds_earlier += taken * of_earlier
            tally.seconds_derived += taken * (of_candidate or of_earlier)
            earlier.made(call.name, call.arguments, widest)

    def _key(self, call: Guess | Call) -> str:
        name = call.name if isinstance(call, Call) else call.tool
        try:
            return call_key(name, call.arguments, self._of(name))
        except BadArguments:
            return ""

    def _of(self, tool: str) -> list[str]:
        return [name.removeprefix(f"{tool}.") for name in self._inert]


def _count(hits: list[int], limits: Sequence[int], place: int) -> None:
    for number, limit in enumerate(limits):
        hits[number] += place < limit
