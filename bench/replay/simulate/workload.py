"""What is simulated: sessions as sizes and times, what predictors say of their calls, and what is switched on."""

from typing import Literal

import msgspec

from bench.replay.records import Effect, Run

# When a guess is made: turns before, with the result of the call before, or as the call is being written.
Moment = Literal["ahead", "turn", "stream"]


class Guess(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate that a predictor offers; `seconds` is what its run takes. A wrong one is a call nobody makes.
    `tokens` is how long before the turn's end one from the stream comes, `turns` how many turns ahead an early one."""

    moment: Moment
    probability: float
    right: bool
    seconds: float
    tokens: int = 4
    turns: int = 1

    @property
    def ahead(self) -> int:
        """Turns between the one whose start it comes with, and its own; -1 for one that comes later than that."""
        return {"ahead": self.turns, "turn": 0, "stream": -1}[self.moment]


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """A tool call, and what is guessed about it."""

    tool: str
    seconds: float
    effect: Effect = "read"
    guesses: tuple[Guess, ...] = ()


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of the prompt and of the output; `steps` is what decoding takes, less than the output with drafts. `fresh`
    tokens of the prompt are new in any case, since the cache never reaches so far."""

    prompt: int
    output: int
    steps: int
    fresh: int = 0
    uses: tuple[Use, ...] = ()


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """A task. `shared` tokens at its front are those of all sessions like it, and always in the cache. It comes at
    `begins` at the earliest."""

    id: str
    domain: str
    turns: tuple[Turn, ...]
    source: str = ""
    recurring: bool = False
    shared: int = 0
    begins: float = 0.0


class Features(msgspec.Struct, frozen=True, kw_only=True):
    """What is switched on. Drafts are `gated` where they are ours; NGRAM's are not."""

    early: bool = False
    drafts: bool = False
    gated: bool = False
    sessions: bool = False
    schedule: bool = False
    warm: bool = False


FEATURES: dict[Run, Features] = {
    "A": Features(),
    "A2": Features(drafts=True),
    "B": Features(early=True),
    "C": Features(drafts=True, gated=True),
    "D": Features(sessions=True),
    "E": Features(schedule=True),
    "F": Features(early=True, drafts=True, gated=True, sessions=True, schedule=True, warm=True),
    "wrong": Features(early=True),
    "same": Features(),
}


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of one forward pass: by itself, for each request, and for each token of their contexts."""

    fixed: float
    request: float
    context: float

    def seconds(self, requests: int, context: float) -> float:
        """For so many requests with so many tokens in all."""
        return self.fixed + self.request * requests + self.context * context


class Prefill(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of a prefill: by itself, for each new token, and for each pair of a new token and one before it."""

    fixed: float
    token: float
    pair: float

    def seconds(self, new: int, cached: int) -> float:
        """Of `new` tokens behind `cached` ones."""
        return self.fixed + self.token * new + self.pair * new * (cached + new / 2)


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """The service times of one server. `verify` is a decode step with drafts; `tokenise` seconds a token, on one core
    for all; `turn` and `call` what a turn and a call take besides, `claim` what a call that finds its result takes, and
    `pause` what the client takes between turns. `pool` is the KV cache, `chunk` what is prefilled
    at once, both in tokens; `running` how many requests decode at once."""

    prefill: Prefill
    decode: Step
    verify: Step
    tokenise: float
    turn: float
    call: float
    claim: float
    pause: float
    pool: int
    chunk: int
    running: int
