"""Texts for the turns under way: what their models may be about to write, by what is known of it."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import msgspec

from sglang_paste.calls import Arguments, parse_arguments
from sglang_paste.draft.foreseen import Foreseen, Key
from sglang_paste.draft.hints import MAX_TEXTS, MAX_TOKENS, Source
from sglang_paste.draft.past import Past
from sglang_paste.draft.render import Frame, Write
from sglang_paste.draft.skeleton import in_habit, pieces, shape_of
from sglang_paste.errors import BadArguments
from sglang_paste.events import Draft

Text = tuple[int, ...]
Encode = Callable[[str], Sequence[int]]

# Between two texts in one row of tokens: no match reaches over it.
SEPARATOR = -1
MAX_TURNS = 4096
LIKELY_TOOLS = 4
# What comes before a call is looked up over so many tokens.
HEAD = 4


class Offer(msgspec.Struct, frozen=True):
    """What a source knows of a request, in place of what it knew before; `draft.hints` keeps it. Of calls that were
    foreseen it has their `probabilities`."""

    request: str
    source: Source
    texts: tuple[Text, ...]
    probabilities: tuple[float, ...] = ()


class _Turn(msgspec.Struct):
    whose: Key
    schemas: Mapping[str, Any]
    head: Text
    tool: str | None = None


class Offers:
    """The turns under way, the calls that were foreseen for them, and those that were written before. What belongs to a
    tenant is offered to its own turns alone, what was foreseen to those of the session.

    `encode` gives the tokens of a text that goes on, `write` a call in the server's format, as long as a tenant's
    model has not shown how it writes them. Only the `wanted` sources offer something.
    """

    def __init__(self, encode: Encode, write: Write, wanted: Collection[Source]) -> None:
        self.texts: dict[Source, int] = dict.fromkeys(wanted, 0)
        self._encode = encode
        self._write = write
        self._past = Past()
        self._foreseen = Foreseen()
        self._turns: dict[str, _Turn] = {}

    def began(self, request: str, whose: Key, schemas: Mapping[str, Any], prompt: Sequence[int]) -> list[Offer]:
        """A turn began after this `prompt`; `schemas` are those of its tools' arguments."""
        self._turns[request] = _Turn(whose, schemas, tuple(prompt[-HEAD:]))
        if len(self._turns) > MAX_TURNS:
            self.ended(next(iter(self._turns)))
        return self._offers(request)

    def opened(self, request: str) -> list[Offer]:
        """The turn writes another call, of which the tool is not known yet."""
        turn = self._turns.get(request)
        if turn is None or turn.tool is None:
            return []
        turn.tool = None
        return self._offers(request)

    def named(self, request: str, tool: str) -> list[Offer]:
        """The turn writes a call of this tool."""
        turn = self._turns.get(request)
        if turn is None:
            return []
        turn.tool = tool
        return self._offers(request)

    def foresaw(self, draft: Draft) -> list[Offer]:
        """The side process expects these calls of a session."""
        whose = self._foreseen.take(draft)
        under_way = [request for request, turn in self._turns.items() if turn.whose == whose]
        return [offer for request in under_way for offer in self._offers(request, (Source.PREDICTED,))]

    def wrote(self, request: str, tool: str, arguments: str, tokens: Sequence[int], frame: Frame | None) -> None:
        """The turn has a whole call, of these tokens; `frame` is how it is written, where that can be said."""
        turn = self._turns.get(request)
        if turn is not None:
            self._past.add(turn.whose[0], tool, tokens, arguments)
            if frame is not None:
                self._past.use(turn.whose[0], frame)

    def ended(self, request: str) -> None:
        """The turn is over, and with it what was foreseen for it."""
        turn = self._turns.pop(request, None)
        if turn is not None:
            self._foreseen.drop(turn.whose)

    def _offers(self, request: str, sources: Iterable[Source] = tuple(Source)) -> list[Offer]:
        turn = self._turns[request]
        tools = self._likely(turn)
        makers: dict[Source, Callable[[], Offer]] = {
            Source.PREDICTED: lambda: self._predicted(request, turn),
            Source.SKELETON: lambda: Offer(request, Source.SKELETON, self._skeletons(turn, tools)),
            Source.PAST: lambda: Offer(request, Source.PAST, self._written(turn, tools)),
        }
        offers = [makers[source]() for source in sources if source in makers and source in self.texts]
        for offer in offers:
            self.texts[offer.source] += len(offer.texts)
        return offers

    def _likely(self, turn: _Turn) -> list[str]:
        if turn.tool is not None:
            return [turn.tool]
        foreseen = (call.tool for call in self._foreseen.calls(turn.whose))
        names = dict.fromkeys((*foreseen, *self._past.tools(turn.whose[0]), *turn.schemas))
        return [name for name in names if name in turn.schemas][:LIKELY_TOOLS]

    def _predicted(self, request: str, turn: _Turn) -> Offer:
        texts = list[tuple[Text, float]]()
        for call in islice(self._foreseen.calls(turn.whose, turn.tool), MAX_TEXTS):
            try:
                arguments = parse_arguments(call.arguments)
            except BadArguments:
                continue
            text = self._writer(turn)(call.tool, in_habit(arguments, self._arguments(turn, call.tool)))
            if text:
                texts.append(((*turn.head, *self._encode(text)), call.probability))
        tokens, probabilities = zip(*texts, strict=True) if texts else ((), ())
        return Offer(request, Source.PREDICTED, tokens, probabilities)

    def _skeletons(self, turn: _Turn, tools: Iterable[str]) -> tuple[Text, ...]:
        write = self._writer(turn)
        texts = [
            self._encode(piece)
            for tool in tools
            for piece in pieces(write, tool, shape_of(turn.schemas.get(tool), self._arguments(turn, tool)))
        ]
        return tuple(joined(texts))

    def _written(self, turn: _Turn, tools: Iterable[str]) -> tuple[Text, ...]:
        tenant = turn.whose[0]
        return tuple(joined([call.tokens for tool in tools for call in self._past.calls(tenant, tool)]))

    def _writer(self, turn: _Turn) -> Write:
        frame = self._past.frame(turn.whose[0])
        return frame.write if frame is not None else self._write

    def _arguments(self, turn: _Turn, tool: str) -> list[Arguments]:
        return [json.loads(call.arguments) for call in self._past.calls(turn.whose[0], tool)]


def joined(texts: Sequence[Sequence[int]]) -> list[Text]:
    """Many texts, the best first, as few; in each the best comes last, since the last of equal matches counts."""
    rows: list[list[int]] = []
    for text in texts:
        if rows and len(rows[-1]) + 1 + len(text) <= MAX_TOKENS:
            rows[-1] = [*text, SEPARATOR, *rows[-1]]
        elif len(rows) < MAX_TEXTS:
            rows.append(list(text[:MAX_TOKENS]))
        else:
            break
    return [tuple(row) for row in rows]
