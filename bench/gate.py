"""`python -m bench.gate`: recorded calls decoded in a simulation, in which the gate decides and no model runs.

What a step takes is that of made-up engines: on one a row costs a fifth of a step, on the other a hundredth. The gate
is told how likely each call is that was foreseen, or nothing of it, or, as a control, the likelihoods of other calls.
"""

import argparse
import json
import random
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import torch

from bench.cpu import record
from bench.decode.__main__ import by_source, tokenizer, tools_of
from bench.decode.cases import Case, Format, cases, made_up
from bench.decode.offered import FRAME, draft
from bench.decode.predicted import Expected, mined, predictions
from sglang_paste.calls import SessionId, TenantId
from sglang_paste.draft.cost import Step
from sglang_paste.draft.gate import Demand, Gate
from sglang_paste.draft.hints import Hints, Source
from sglang_paste.draft.offers import Offer, Offers
from sglang_paste.mine.read import Reader
from sglang_paste.mine.records import Session
from sglang_paste.mine.split import Split
from sglang_paste.patches.draft_lookup import Lookup

LONGEST = 47
STEP_S = 0.025
ENGINES = {"row = step/5": STEP_S / 5, "row = step/100": STEP_S / 100}
NOTHING, OWN, OTHERS = "nothing", "likelihoods", "others' likelihoods"


class Turn(NamedTuple):
    """A call, what was foreseen of it, and its tenant's tools."""

    case: Case
    guesses: Expected
    tools: Sequence[str]


class Tally(NamedTuple):
    """What it took to decode a turn."""

    hit: bool
    tokens: int
    steps: int
    seconds: float


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gate", description=__doc__)
    parser.add_argument("--sessions", type=Path, nargs="*", help="recorded sessions (default: made-up ones)")
    parser.add_argument("--learned", type=int, default=200, help="sessions to mine (default: %(default)s)")
    parser.add_argument("--per-source", type=int, default=12, help="sessions to play (default: %(default)s)")
    arguments = parser.parse_args()
    form, draw = Format(tokenizer()), random.Random(1)
    if arguments.sessions:
        played, learned = split(arguments.sessions, draw)
    else:
        played, learned = made_up(arguments.per_source, draw), made_up(40, draw)
    turns = turns_of(form, played, learned[: arguments.learned], arguments.per_source)
    told = {}
    for engine, row in ENGINES.items():
        tallies = {what: Decoder(form, row).decode(turns, what) for what in (NOTHING, OWN, OTHERS)}
        told[engine] = {what: show(engine, what, done, tallies[NOTHING]) for what, done in tallies.items()}
    record.append("gate", {"turns": len(turns), "speedups": told})
    return 0


def split(paths: Sequence[Path], draw: random.Random) -> tuple[list[Session], list[Session]]:
    """Sessions to play, and others to learn from, none of which is of the same task."""
    sessions = [session for session in Reader(list(paths)) if any(turn.tool_calls for turn in session.turns)]
    draw.shuffle(sessions)
    parts = Split(sessions, 4)
    return list(parts.test(sessions, 0)), list(parts.train(sessions, 0))


def turns_of(form: Format, played: Sequence[Session], learned: Sequence[Session], most: int) -> list[Turn]:
    """The last calls of each session, as `bench.decode` plays them."""
    kept = {session.source: 0 for session in played}
    for session in played:
        kept[session.source] += 1
    patterns, tools = mined(learned), {source: tools_of(learned, source) for source in kept}
    found = []
    for chain in by_source(list(cases(played[: most * len(kept) * 4], form, 3)), most):
        expected = predictions(patterns, chain[0].session)
        found += [Turn(case, expected.get(case.turn, Expected()), tools[case.source]) for case in chain]
    return found


class Decoder:
    """A server's gate and sources, and an engine whose step takes `STEP_S`, and each row beside its first `row`."""

    def __init__(self, form: Format, row: float) -> None:
        self._form = form
        self._row = row
        self._gate, self._hints = Gate(LONGEST), Hints()
        self._lookup = Lookup(self._hints, LONGEST)
        self._offers = Offers(form.encode, FRAME.write, tuple(Source))

    def decode(self, turns: Sequence[Turn], told: str) -> list[Tally]:
        """One turn after another; `told` says what the gate knows of the likelihoods."""
        chances = [guess.probability for turn in turns for guesses in turn.guesses for guess in guesses]
        if told == OTHERS:
            random.Random(1).shuffle(chances)
        tallies: list[Tally] = []
        likely = iter(chances)
        for turn in turns:
            opened, named = (
                [guess._replace(probability=next(likely)) for guess in guesses] for guesses in turn.guesses
            )
            turn = turn._replace(guesses=Expected(opened, named))
            tallies.append(self._turn(str(len(tallies)), turn, told != NOTHING))
        return tallies

    def _turn(self, request: str, turn: Turn, told: bool) -> Tally:
        case, (call, *_) = turn.case, turn.case.session.turns[turn.case.turn].tool_calls
        whose = TenantId(case.source), SessionId(case.session.session_id)

        def put(offers: Iterable[Offer]) -> None:
            for each in offers:
                known = each.probabilities if told else ()
                self._hints.put(each.request, each.source, each.texts, min_match=1, probabilities=known)

        def name() -> None:
            if turn.guesses.named:
                self._offers.foresaw(draft(whose, turn.guesses.named))
            put(self._offers.named(request, call.name))

        self._offers.foresaw(draft(whose, turn.guesses.opened))
        put(self._offers.began(request, whose, {tool: {} for tool in turn.tools}, case.prompt))
        named = len(self._form.encode(f"{FRAME.before}{call.name}{FRAME.between}"))
        steps, seconds = self._steps(request, case, named, name)
        self._offers.wrote(request, call.name, json.dumps(call.arguments), case.answer, FRAME)
        self._offers.ended(request)
        for store in (self._hints, self._lookup, self._gate):
            store.drop(request)
        hit = any((call.name, call.arguments) == guess[:2] for guess in turn.guesses.opened)
        return Tally(hit, len(case.answer), steps, seconds)

    def _steps(self, request: str, case: Case, named_after: int, named: Callable[[], None]) -> tuple[int, float]:
        req, text, steps, seconds = SimpleNamespace(rid=request, grammar=None), list(case.prompt), 0, 0.0
        answer, done, is_named = case.answer, 0, False
        while done < len(answer):
            if done >= named_after and not is_named:
                is_named = True
                named()
            found = self._lookup.find([req], torch.tensor([text], dtype=torch.int32), torch.tensor([len(text)]))
            offers = [offer for each in found for _, offer in each.offers()]
            demand = Demand(request, offers, len(answer) - done - 1)
            plan = self._gate.plan([demand], len(text))
            tokens = list(plan.picks[0].tokens[: plan.width - 1]) if plan.picks[0] else []
            right = next((at for at, token in enumerate(tokens) if answer[done + at] != token), len(tokens))
            made = answer[done : done + right + 1]
            took = STEP_S + self._row * (plan.width - 1)
            self._gate.settle(demand, made)
            self._gate.observe(Step(1, plan.width, len(text)), took, 0.0, 0.0)
            text, done, steps, seconds = text + made, done + len(made), steps + 1, seconds + took
        return steps, seconds


def show(engine: str, told: str, tallies: Sequence[Tally], before: Sequence[Tally]) -> float:
    """Prints a row; returns how much faster it is than where the gate is told nothing."""
    gains = {}
    for name, kept in (("all", (True, False)), ("hits", (True,)), ("misses", (False,))):
        own = [pair for pair in zip(tallies, before, strict=True) if pair[0].hit in kept]
        gains[name] = sum(old.seconds for _, old in own) / max(sum(new.seconds for new, _ in own), 1e-9)
    length = sum(each.tokens for each in tallies) / sum(each.steps for each in tallies)
    print(
        f"{engine:15} told {told:20} {len(tallies)} calls, {sum(each.hit for each in tallies)} foreseen: "
        f"accept length {length:.2f}, speed × {gains['all']:.3f} (foreseen × {gains['hits']:.3f}, "
        f"others × {gains['misses']:.3f})",
        flush=True,
    )
    return round(gains["all"], 3)


if __name__ == "__main__":
    sys.exit(main())
