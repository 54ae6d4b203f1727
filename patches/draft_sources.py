"""What drafts come from, on the rank that decides for all: turns begin and are followed there, and what is offered to
them goes the way of the requests, so that all ranks draft alike."""

import logging
import weakref
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from sglang.srt.runtime_context import get_observability, get_serving
from sglang.utils import TypeBasedDispatcher

from sglang_paste.boundary import Sink
from sglang_paste.calls import parse_arguments
from sglang_paste.draft.hints import Source
from sglang_paste.draft.offers import HEAD, Offer, Offers
from sglang_paste.draft.render import learn
from sglang_paste.errors import BadArguments
from sglang_paste.events import CallNamed, CallOpened, CallReady, Draft, EngineEvent, TurnEnded
from sglang_paste.patches import bus
from sglang_paste.patches.api_turn import harmless
from sglang_paste.patches.arm import settings
from sglang_paste.patches.counters import Counters
from sglang_paste.patches.draft_hints import hints
from sglang_paste.patches.draft_render import Renderer, template_of
from sglang_paste.patches.text import decoder
from sglang_paste.session import Note

logger = logging.getLogger(__name__)

# How many tokens before the one that showed it a call may have begun, and how many follow one that is the last.
REACH = 96
TAIL = 16
# A single token of a call's text says enough: how far such a match is believed is learned.
MIN_MATCH = 1
_TEXTS = {"texts": ("source", "Texts that were offered to requests as drafts.")}


class _Call(msgspec.Struct):
    """A call of a turn: the output tokens that were there when it was seen to open, and to be ready."""

    opened: int
    ready: int = 0
    tool: str = ""
    arguments: str = ""


class _Turn(msgspec.Struct):
    request: Callable[[], Any]
    calls: list[_Call] = msgspec.field(default_factory=list)


class Drafts:
    """The turns of this scheduler's requests, and what waits to be told to all ranks of them. Also the sink that lets
    them follow what passes."""

    def __init__(self, tokenizer: Any, parser: str, sources: Sequence[Source], sink: Sink) -> None:
        self._renderer = Renderer(tokenizer, parser, template_of(get_serving().chat_template))
        self._decode = decoder(tokenizer, skip_special=False)
        self._offers = Offers(self._renderer.encode, self._renderer.write, sources)
        self._turns: dict[str, _Turn] = {}
        self._waiting: list[Offer] = []
        self._sink = sink
        self._counters: Counters | None = None

    @harmless
    def began(self, req: Any, note: Note, schemas: Mapping[str, Any]) -> None:
        """The turn of a request was queued."""
        self._turns[req.rid] = _Turn(weakref.ref(req))
        prompt = [max(token, 0) for token in req.origin_input_ids_unpadded[-HEAD:]]
        self._waiting += self._offers.began(req.rid, (note.tenant, note.session), schemas, prompt)

    def send(self, events: Sequence[EngineEvent]) -> None:
        """Never waits."""
        for event in events:
            self._follow(event)
        self._sink.send(events)

    @harmless
    def foresaw(self, draft: Draft) -> None:
        """The side process expects calls of a session."""
        self._waiting += self._offers.foresaw(draft)

    def taken(self) -> list[Offer]:
        """What was offered since the last time."""
        offers, self._waiting = self._waiting, []
        if offers and get_observability().enable_metrics:
            self._counters = self._counters or Counters("draft", _TEXTS, self._values)
            self._counters.follow()
        return offers

    @harmless
    def _follow(self, event: EngineEvent) -> None:
        turn = self._turns.get(event.request)
        if turn is None:
            return
        match event:
            case CallOpened():
                turn.calls.append(_Call(event.position))
                self._waiting += self._offers.opened(event.request)
            case CallNamed():
                self._waiting += self._offers.named(event.request, event.tool)
            case CallReady():
                turn.calls[-1:] = [_Call(turn.calls[-1].opened, event.position, event.tool, event.arguments)]
            case TurnEnded():
                del self._turns[event.request]
                self._keep(event.request, turn)
                self._offers.ended(event.request)

    def _keep(self, request: str, turn: _Turn) -> None:
        """What the turn wrote of calls, for later ones."""
        req = turn.request()
        if req is None:
            return
        floor, output = 0, req.output_ids_through_stop
        for place, call in enumerate(turn.calls):
            if not call.ready:
                continue
            last = place == len(turn.calls) - 1
            end = min(call.ready + TAIL, len(output)) if last else call.ready
            tokens = self._from_opening(output[max(floor, call.opened - REACH) : end].tolist())
            floor = call.ready
            frame = self._frame(tokens, call) if last else None
            self._offers.wrote(request, call.tool, call.arguments, tokens, frame)

    def _from_opening(self, tokens: list[int]) -> list[int]:
        start = max(self._renderer.start(self._decode(tokens)), 0)
        return tokens[
            bisect_right(range(len(tokens)), start, key=lambda count: len(self._decode(tokens[:count]))) - 1 :
        ]

    def _frame(self, tokens: list[int], call: _Call) -> Any:
        try:
            return learn(self._decode(tokens), call.tool, parse_arguments(call.arguments))
        except BadArguments:
            return None

    def _values(self) -> dict[tuple[str, str], int]:
        return {("texts", source): count for source, count in self._offers.texts.items()}


_drafts: Drafts | None = None


def tapped(scheduler: Any, sink: Sink, parser: str) -> Sink:
    """The sink of a scheduler's turns, where they are drafted for."""
    global _drafts
    sources = [Source(name) for name in settings().draft_sources]
    if not sources or not scheduler.spec_algorithm.is_ngram():
        return sink
    try:
        _drafts = Drafts(scheduler.tokenizer, parser, sources, sink)
    except Exception:
        logger.exception("calls are drafted from their own history alone")
        return sink
    return _drafts


def began(req: Any, note: Note, schemas: Mapping[str, Any]) -> None:
    """A request with tools was queued, and its turn begins."""
    if _drafts is not None:
        _drafts.began(req, note, schemas)


def dispatching(_result: None, scheduler: Any) -> None:
    """After `Scheduler.init_request_dispatcher`: offers have a place to go to."""

    def apply(offer: Offer) -> None:
        hints().put(offer.request, offer.source, offer.texts, min_match=MIN_MATCH, probabilities=offer.probabilities)

    scheduler._request_dispatcher += TypeBasedDispatcher([(Offer, apply)])


def polled(result: list[Any], scheduler: Any) -> list[Any] | None:
    """After `Scheduler._poll_timeout_aborts`, which only rank 0 calls: what is offered goes the way of its aborts."""
    if not settings().draft_sources:
        return None
    foretold = bus.sink("scheduler").receive(drafts=True)
    if _drafts is None:
        return None
    for draft in foretold:
        if isinstance(draft, Draft):
            _drafts.foresaw(draft)
    offers = _drafts.taken()
    return [*result, *offers] if offers else None
