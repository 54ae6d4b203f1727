"""One turn: from the request's arrival to its last token, or to the moment it is gone."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from sglang_paste.boundary.call import OpenCall
from sglang_paste.boundary.gate import CLOSING, INSIDE, OPENING, Reader, Vocabulary
from sglang_paste.boundary.scan import Mark, Scanner
from sglang_paste.boundary.shape import Detector, FoundCall
from sglang_paste.calls import SessionId, TenantId
from sglang_paste.events import (
    MAX_SAID_CHARS,
    CallAborted,
    CallLikely,
    CallNamed,
    CallOpened,
    CallPartial,
    CallReady,
    EngineEvent,
    StopReason,
    TurnEnded,
    TurnStarted,
)

# What the detector may take in all: this much at once, and this much for every token.
BUDGET_S = 0.2
BUDGET_PER_TOKEN_S = 200e-6
# No opening is longer, so what comes before has been searched.
MAX_OPENING = 64


class Sink(Protocol):
    """Takes events without ever waiting."""

    def send(self, events: Sequence[EngineEvent]) -> None: ...


class TurnHead(msgspec.Struct, frozen=True, kw_only=True):
    """Whose turn it is."""

    tenant: TenantId
    session: SessionId
    request: str


class Tally:
    """What went wrong, over all turns of a process."""

    def __init__(self) -> None:
        self.raised = 0
        self.slow = 0

    @property
    def unread(self) -> int:
        """Turns that were not read to their end."""
        return self.raised + self.slow


class Turn:
    """Turns the committed tokens of one request into events.

    `required` holds, for each tool, the arguments that make a candidate. The events do not depend on how the tokens
    are divided into commits, apart from their positions and times. A detector that raises, or takes more time than
    its budget, is not asked again in this turn: the turn then has a start and an end only.
    """

    def __init__(
        self,
        head: TurnHead,
        detector: Detector,
        vocabulary: Vocabulary,
        reader: Reader,
        sink: Sink,
        *,
        required: Mapping[str, tuple[str, ...]],
        tally: Tally | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._head: dict[str, Any] = msgspec.structs.asdict(head)
        self._detector = detector
        self._shape = detector.shape
        self._vocabulary = vocabulary
        self._flags = vocabulary.flags
        self._reader = reader
        self._sink = sink
        self._required = required
        self._tally = tally or Tally()
        self._clock = clock
        self._events: list[EngineEvent] = []
        self._pending: list[int] = []
        self._phase = OPENING
        self._position = 0
        self._text = ""
        self._thought = ""
        self._answer = -1
        self._from = 0
        self._call: OpenCall | None = None
        self._scanner: Scanner | None = None
        self._ready: list[FoundCall] = []
        self._spent = 0.0
        self._off = False
        self._over = False

    @property
    def position(self) -> int:
        """Committed tokens so far."""
        return self._position

    def start(self, prompt_tokens: int, tools: tuple[str, ...]) -> None:
        """The request was queued."""
        self._emit(TurnStarted, prompt_tokens=prompt_tokens, tools=tools)
        self._flush()

    def commit(self, tokens: Sequence[int]) -> None:
        """A run of tokens was committed."""
        self._position += len(tokens)
        if self._off or self._over:
            return
        self._pending.extend(tokens)
        flags, phase = self._flags, self._phase
        for token in tokens:
            known = flags.get(token)
            if (self._vocabulary.learn(token) if known is None else known) & phase:
                self._guarded(self._look)
                self._flush()
                return

    def end(self, reason: StopReason, *, trim: Callable[[str], str] | None = None) -> None:
        """The turn is over; idempotent. `trim` cuts the text where the API does."""
        if self._over:
            return
        self._over = True
        if not self._off and reason not in ("abort", "error"):
            self._guarded(lambda: self._finish(trim))
        self._abort(reason)
        calls = len(self._ready)
        self._emit(TurnEnded, reason="tool_calls" if calls and reason == "stop" else reason, calls=calls)
        self._flush()

    def restart(self) -> None:
        """The host threw away what was committed, and generates it anew."""
        self._give_up("abort")
        self._flush()

    def _guarded(self, action: Callable[[], None]) -> None:
        began = time.perf_counter()
        try:
            action()
        except Exception:
            # Whatever a parser makes of a model's output must not reach the scheduler.
            self._tally.raised += 1
            self._give_up()
        self._spent += time.perf_counter() - began
        if not self._off and self._spent > BUDGET_S + BUDGET_PER_TOKEN_S * self._position:
            self._tally.slow += 1
            self._give_up()

    def _give_up(self, reason: StopReason = "error") -> None:
        self._off = True
        self._abort(reason)

    def _abort(self, reason: StopReason) -> None:
        if self._call is not None:
            self._emit(CallAborted, index=self._call.index, tool=self._call.tool, reason=reason)
            self._call = None

    def _look(self) -> None:
        self._text += self._reader.read(self._pending)
        self._pending.clear()
        self._advance()

    def _advance(self) -> None:
        while self._call is not None or self._open_call():
            if not self._scan():
                break
        self._set_phase()

    def _set_phase(self) -> None:
        if self._scanner is None:
            self._phase = OPENING
        elif self._call is not None and self._call.tool and not self._call.wants_candidates:
            self._phase = CLOSING
        else:
            self._phase = INSIDE

    def _open_call(self) -> bool:
        """Look for the opening of a further call."""
        if self._scanner is not None:
            return self._scan_between(self._scanner)
        if self._answer < 0:
            self._answer = self._detector.answer_start(self._text, whole=self._over)
            if self._answer < 0:
                return False
            self._thought = self._text[max(self._answer - MAX_SAID_CHARS, 0) : self._answer]
            self._text = self._text[self._answer :]
            self._answer = 0
        found = self._shape.opening.search(self._text, self._from)
        if not found:
            self._from = max(self._from, len(self._text) - MAX_OPENING)
            return False
        if not self._is_opened(found):
            return False
        said = "" if self._ready else self._thought + self._text[max(found.start() - MAX_SAID_CHARS, 0) : found.start()]
        self._opened(found.end(), Scanner(self._shape.style, found.end()), 0, said[-MAX_SAID_CHARS:])
        return True

    def _is_opened(self, found: re.Match[str]) -> bool:
        if self._shape.opened:
            return self._detector.opened(self._text[: found.end(found.lastindex or 0)] + self._shape.opened)
        return self._detector.opened(self._text)

    def _scan_between(self, scanner: Scanner) -> bool:
        """In a format with one opening for all calls: the bracket that opens the next one."""
        for mark in scanner.feed(self._text):
            if mark.letter == ("(" if self._shape.style == "python" else "{"):
                self._opened(mark.end - 1, scanner, mark.depth - 1)
                self._step(mark)
                return True
        return False

    def _opened(self, start: int, scanner: Scanner, base: int, said: str = "") -> None:
        self._scanner = scanner
        self._call = OpenCall(self._detector, len(self._ready), start, scanner, base)
        self._emit(CallOpened, index=self._call.index, said=said)

    def _scan(self) -> bool:
        """Follow the open call; false where the text is used up."""
        scanner = self._scanner
        if scanner is None:
            return False
        for mark in scanner.feed(self._text):
            self._step(mark)
            if self._call is None:
                return True
        return False

    def _step(self, mark: Mark) -> None:
        call = self._call
        if call is None:
            return
        if call.tool is None:
            tool = call.name(self._text, mark)
            if tool is not None:
                self._emit(CallNamed, index=call.index, tool=tool)
        else:
            call.follow(mark)
        if call.tool is not None or self._shape.style == "opaque":
            found = call.ready(self._text, mark)
            if found is not None:
                self._finish_call(found, mark.end)
                return
            candidate = call.candidate(self._text, mark, self._required)
            if candidate is not None:
                arguments, whole = candidate
                kind = CallLikely if whole else CallPartial
                self._emit(kind, index=call.index, tool=call.tool, arguments=arguments)
        if call.failed(mark):
            self._abort("error")
            self._leave(mark.end)

    def _leave(self, end: int) -> None:
        self._call = None
        self._from = end
        if self._shape.repeats:
            self._scanner = None

    def _finish(self, trim: Callable[[str], str] | None) -> None:
        text = self._text + self._reader.read(self._pending, last=True)
        self._pending.clear()
        self._text = trim(text) if trim else text
        self._advance()
        if self._answer < 0 or (self._call is None and not self._shape.opening.search(self._text, self._from)):
            return
        for found in self._detector.calls(self._text)[len(self._ready) :]:
            self._finish_call(found, len(self._text))

    def _finish_call(self, found: FoundCall, end: int) -> None:
        """A call is ready, of which only the whole text may have shown that it was one."""
        index = len(self._ready)
        call, self._call = self._call, None
        if call is None:
            self._emit(CallOpened, index=index)
        if call is None or call.tool is None:
            self._emit(CallNamed, index=index, tool=found.name)
        self._emit(CallReady, index=index, tool=found.name, arguments=found.arguments)
        self._ready.append(found)
        self._leave(end)

    def _emit(self, kind: type[Any], **fields: Any) -> None:
        self._events.append(kind(**self._head, position=self._position, time=self._clock(), **fields))

    def _flush(self) -> None:
        if self._events:
            events, self._events = self._events, []
            try:
                self._sink.send(events)
            except Exception:
                self._tally.raised += 1
