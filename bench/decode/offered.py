"""What the server's own sources would offer for each call: `draft.offers`, told what it would be told in a server.

The tenant's sessions before are of other tasks. What the side process expects comes from patterns mined of such.
"""

import json
from collections.abc import Iterable, Sequence

from bench.decode.cases import MOST_TOKENS, Case, Format
from bench.decode.plugin import Given
from bench.decode.predicted import Expected, Guess
from sglang_paste.calls import SessionId, TenantId
from sglang_paste.draft.foreseen import Key
from sglang_paste.draft.hints import Source
from sglang_paste.draft.offers import Offer, Offers
from sglang_paste.draft.render import Frame, Style
from sglang_paste.events import Draft, ForeseenCall
from sglang_paste.mine.records import Call, Session

FRAME = Frame('<tool_call>{"name":"', '", "arguments":', "}</tool_call><|im_end|>", Style())


class Offering:
    """One server's sources, for tenants named after what their sessions were recorded with."""

    def __init__(self, form: Format) -> None:
        self._form = form
        self._offers = Offers(form.encode, FRAME.write, tuple(Source))
        self._turns = 0

    def served(self, sessions: Iterable[Session], per_source: int) -> dict[str, list[list[int]]]:
        """Take in calls of sessions that were served before, so many of each source; returns their tokens."""
        seen: dict[str, list[list[int]]] = {}
        for session in sessions:
            known = seen.setdefault(session.source, [])
            calls = [call for turn in session.turns for call in turn.tool_calls]
            for call in calls[-4:] if len(known) < per_source else ():
                tokens = self._wrote(session, call)
                if len(tokens) <= MOST_TOKENS:
                    known.append(tokens)
        return seen

    def given(self, case: Case, expected: Expected, tools: Sequence[str]) -> Given:
        """The hints of a turn that makes this call next, of whose tenant these tools are known."""
        whose, request = _whose(case.session), self._name()
        (call, *_) = case.session.turns[case.turn].tool_calls
        self._offers.foresaw(draft(whose, expected.opened))
        began = self._offers.began(request, whose, {tool: {} for tool in tools}, case.prompt)
        if expected.named:
            self._offers.foresaw(draft(whose, expected.named))
        named = self._offers.named(request, call.name)
        self._offers.ended(request)
        return Given(tuple(began), tuple(named), len(self._form.encode(f"{FRAME.before}{call.name}{FRAME.between}")))

    def answered(self, case: Case) -> None:
        """The turn's calls are written."""
        for call in case.session.turns[case.turn].tool_calls:
            self._wrote(case.session, call)

    def _wrote(self, session: Session, call: Call) -> list[int]:
        tokens, request = self._form.encode(self._form.calls([call])), self._name()
        self._offers.began(request, _whose(session), {call.name: {}}, ())
        self._offers.wrote(request, call.name, json.dumps(call.arguments), tokens, FRAME)
        self._offers.ended(request)
        return tokens

    def _name(self) -> str:
        self._turns += 1
        return str(self._turns)


def without_predictions(given: Given) -> Given:
    """The same hints as if nothing was expected."""

    def rest(offers: Iterable[Offer]) -> tuple[Offer, ...]:
        return tuple(offer for offer in offers if offer.source != Source.PREDICTED)

    return Given(rest(given.began), rest(given.named), given.named_after)


def draft(whose: Key, guesses: Sequence[Guess]) -> Draft:
    """What the side process tells of these."""
    calls = (
        ForeseenCall(tool=guess.tool, arguments=json.dumps(guess.arguments), probability=guess.probability)
        for guess in guesses
    )
    return Draft(tenant=whose[0], session=whose[1], time=0.0, calls=tuple(calls))


def _whose(session: Session) -> Key:
    return TenantId(session.source), SessionId(session.session_id)
