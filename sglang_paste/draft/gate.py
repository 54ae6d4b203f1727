"""How much to draft: as many tokens as make the text come fastest, and none where drafting loses.

Every draft that was looked up is compared with what was then generated, whether it was verified or not. So a request
whose text becomes predictable is seen to without trying, and one whose text is not costs a look-up.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np

from sglang_paste.draft.chance import Chance, Floats
from sglang_paste.draft.cost import OUTLIER, Cost, Step
from sglang_paste.draft.hints import Source
from sglang_paste.draft.survival import Survival, shared

WIDTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
# What drafting must promise beyond a plain step, since both are estimates.
MARGIN = 1.03
# What a step of the other kind takes is looked at once in so many steps, in case it has changed: a plain one where
# drafting promises little more than that, a drafted one where the drafts promise at least as much.
PLAIN_STEPS = 8
DRAFT_STEPS = 128
PROMISE = 1.3
LOOKUP_SHARE = 0.01
# How fast the seconds beside and between steps are followed, and how many are nothing out of the way.
FOLLOW, USUAL = 0.1, 0.0005
# So many plain steps in a row are learned from one by one, and then one of so many.
PLAIN_LEARNED, PLAIN_PERIOD = 32, 4
FADE = 0.97
MAX_REQUESTS = 4096
# Where the width is fixed: after so many steps without an accepted draft, look up in one of so many.
IDLE_STEPS = 32
IDLE_PERIOD = 4


class Offer(NamedTuple):
    """A draft for a request: its tokens rest on a match of `match` tokens, and are those of a call with this `chance`,
    where that is known."""

    source: Source
    match: int
    tokens: Sequence[int]
    chance: Chance | None = None


class Demand(NamedTuple):
    """What may be drafted for a request, in order of trust, and at most how many tokens of it."""

    request: str
    offers: Sequence[Offer]
    limit: int


class Plan(NamedTuple):
    """A step of `width` rows per request, the root among them, and each request's draft."""

    width: int
    picks: list[Offer | None]


class Luck(msgspec.Struct):
    """How much more often a request's drafts of a source were wrong than such drafts are."""

    wrong: float = 1.0
    foreseen: float = 1.0

    @property
    def ratio(self) -> float:
        return min(max(self.wrong / self.foreseen, 0.1), 20.0)

    def observe(self, wrong: float, foreseen: float) -> None:
        self.wrong = 1 + FADE * (self.wrong - 1) + wrong
        self.foreseen = 1 + FADE * (self.foreseen - 1) + foreseen


class Rhythm:
    """When to look up drafts where every step has the same width: always, but rarely after many steps in which no
    draft was accepted."""

    def __init__(self) -> None:
        self._misses = 0
        self._steps = 0

    def looks_up(self) -> bool:
        """Whether to look for drafts in this step."""
        self._steps += 1
        return self._misses < IDLE_STEPS or self._steps % IDLE_PERIOD == 0

    def observe(self, accepted: int) -> None:
        """So many drafted tokens were accepted in a step."""
        self._misses = 0 if accepted else self._misses + 1


class Gate:
    """Decides for one engine. Drafts have at most `longest` tokens, and a step may have any width up to one more."""

    def __init__(self, longest: int) -> None:
        self.cost = Cost()
        self._longest = longest
        self._survival = Survival(longest)
        self._luck: dict[tuple[str, Source], Luck] = {}
        self._since_plain = PLAIN_STEPS
        self._since_draft = 0
        self._plain_steps = 0
        self._since_lookup = 0
        self._saved = 0.0
        # Of the step under way: tokens it has made, seconds that a plain one needs for one, and what it takes.
        self._made, self._a_token, self._drafted = 0, 0.0, 0.0
        self._beside = {False: 0.0, True: 0.0}
        self._between = 0.0
        self._step_seconds = 0.0

    def plan(self, demands: Sequence[Demand], context: int) -> Plan:
        """The best step for a batch whose requests have `context` tokens all together."""
        if not any(demand.offers for demand in demands):
            return Plan(1, [None] * len(demands))
        best = [self._best(demand) for demand in demands]
        batch, longest = len(demands), max((len(hopes) for _, hopes in best), default=0)
        widths = [width for width in WIDTHS if width <= longest] + [longest + 1] * (longest > 0)
        around = self._between + self._beside[False]
        seconds = {width: self.cost.seconds(Step(batch, width, context)) + around for width in (1, *widths[1:])}
        gains = {1: float(batch)}
        for width in widths[1:]:
            gains[width] = batch + sum(float(hopes[min(width - 1, len(hopes)) - 1]) for _, hopes in best if len(hopes))
        rates = {width: gains[width] / seconds[width] for width in gains}
        width = self._explore(max(rates, key=rates.__getitem__), rates, gains)
        self._a_token, self._drafted = 1 / rates[1], seconds[width]
        return Plan(width, [offer if width > 1 else None for offer, _ in best])

    def settle(self, demand: Demand, generated: Sequence[int]) -> None:
        """A step has generated these tokens for the request: learn from all that was offered."""
        self._made += len(generated)
        for offer in demand.offers:
            right, compared = shared(offer.tokens, generated)
            if not compared:
                continue
            hazards = self._survival.hazards(offer.source, offer.match, offer.chance)
            foreseen = float(hazards[: min(right + 1, compared)].sum())
            self._luck_of(demand.request, offer.source).observe(float(right < compared), foreseen)
            self._survival.observe(offer.source, offer.match, right, compared, offer.chance)

    def observe(self, step: Step, seconds: float, beside: float, between: float) -> None:
        """A step took so many `seconds`, what was done `beside` it for drafts, looked up or not, so many more, and what
        was done `between` the step before and this one."""
        self._plain_steps = 0 if step.width > 1 else self._plain_steps + 1
        if self._plain_steps <= PLAIN_LEARNED or not self._plain_steps % PLAIN_PERIOD:
            self.cost.observe(step, seconds)
        self._step_seconds = seconds
        looked = not self._since_lookup
        if looked:
            saves = self._made * self._a_token - self._drafted if step.width > 1 else 0.0
            self._saved += FOLLOW * (saves - self._saved)
        self._made = 0
        self._beside[looked] = _followed(self._beside[looked], beside)
        self._between = _followed(self._between, between)

    def looks_up(self) -> bool:
        """Whether to look for drafts in this step: always, unless it took longer lately than what came of it saved."""
        self._since_lookup += 1
        takes = self._beside[True] - self._beside[False]
        if self._saved < takes and self._since_lookup * LOOKUP_SHARE * self._step_seconds < takes:
            return False
        self._since_lookup = 0
        return True

    def drop(self, request: str) -> None:
        """The request has ended."""
        for source in Source:
            self._luck.pop((request, source), None)

    def _best(self, demand: Demand) -> tuple[Offer | None, Floats]:
        """The most promising offer, and how many of its first 1, 2, … tokens will be right."""
        best, most = None, np.zeros(0)
        for offer in demand.offers:
            count = min(len(offer.tokens), demand.limit, self._longest)
            hazards = self._survival.hazards(offer.source, offer.match, offer.chance)[:count]
            ratio = self._luck[key].ratio if (key := (demand.request, offer.source)) in self._luck else 1.0
            hopes = np.cumsum(np.cumprod((1 - hazards) ** ratio))
            if count and (not len(most) or hopes[-1] > most[-1]):
                best, most = offer, hopes
        return best, most

    def _explore(self, width: int, rates: dict[int, float], gains: dict[int, float]) -> int:
        """The best width, or one to learn from."""
        if width > 1 and rates[width] < MARGIN * rates[1]:
            width = 1
        promising = [each for each in gains if gains[each] > PROMISE * gains[1]]
        if width == 1 and promising and self._since_draft >= DRAFT_STEPS:
            width = promising[0]
        elif width > 1 and rates[width] < PROMISE * rates[1] and self._since_plain >= PLAIN_STEPS:
            width = 1
        self._since_plain = 0 if width == 1 else self._since_plain + 1
        self._since_draft = 0 if width > 1 else self._since_draft + 1
        return width

    def _luck_of(self, request: str, source: Source) -> Luck:
        if (request, source) not in self._luck and len(self._luck) >= MAX_REQUESTS:
            del self._luck[next(iter(self._luck))]
        return self._luck.setdefault((request, source), Luck())


def _followed(mean: float, seconds: float) -> float:
    """A mean that follows what is seen, but not what is out of the way: first look-ups, a pause between two steps."""
    return mean + FOLLOW * (min(seconds, OUTLIER * max(mean, USUAL)) - mean)
