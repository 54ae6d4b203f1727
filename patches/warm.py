"""The next prompt of a session, rendered and sent to be prefilled as soon as a tool's result is known.

The result comes from the side process, the rest of the prompt is what this process has: the session's last request,
and the reply as the client got it. Nothing of it is ever answered to a client: its requests have no state here, and
the scheduler keeps what they put out to itself.
"""

import asyncio
import logging
from collections.abc import Mapping
from contextvars import ContextVar
from itertools import count
from typing import Any, NamedTuple

import msgspec

from sglang_paste.events import EngineDirective, Warm
from sglang_paste.patches import arm, bus
from sglang_paste.patches.api_turn import ApiTurn, harmless
from sglang_paste.session import Note
from sglang_paste.session.note import KEY, write
from sglang_paste.session.reply import OpenTurn, OpenTurns, Reply

logger = logging.getLogger(__name__)

PREFIX = "paste-warm-"  # of the requests' ids, each of which ends with a dot: one is no other's beginning

_rendering: ContextVar[bool] = ContextVar("paste_warm_rendering", default=False)


class Query(NamedTuple):
    """What the next request of a session will resemble, and where it is made."""

    serving: Any
    request: Any
    prompt_tokens: int = 0  # with those of its reply


class Warmer:
    """The open turns of this process, and the requests that are ahead of their sessions. Everything but `began`, for
    which SGLang has threads, belongs to one event loop."""

    def __init__(self) -> None:
        self._turns: OpenTurns[Query] = OpenTurns()
        self._ahead: dict[tuple[str, str], str] = {}
        self._numbers = count()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def began(self, turn: ApiTurn, serving: Any, request: Any) -> None:
        """A session is back with a request: what was ahead of it is behind now."""
        if self._loop is None:
            self._began(turn, serving, request)
        else:
            self._loop.call_soon_threadsafe(self._began, turn, serving, request)

    def _began(self, turn: ApiTurn, serving: Any, request: Any) -> None:
        self._turns.began(turn.tenant, turn.session, Query(serving, request))
        rid = self._ahead.pop((turn.tenant, turn.session), None)
        if rid is not None:
            self._abort(serving.tokenizer_manager, rid)

    def replied(self, turn: ApiTurn, meta: Mapping[str, Any], reply: Reply) -> None:
        """The reply to a request is complete."""
        self._listen()
        opened = self._turns.replied(turn.tenant, turn.session, meta["id"], reply)
        if opened is not None:
            tokens = meta.get("prompt_tokens", 0) + meta.get("completion_tokens", 0)
            opened.query = opened.query._replace(prompt_tokens=tokens)
            self._go_ahead(opened)

    def take(self, directives: list[EngineDirective]) -> None:
        """Directives of the side process."""
        for each in directives:
            if isinstance(each, Warm):
                opened = self._turns.resulted(each.tenant, each.session, each.request, each.index, each.content)
                if opened is not None:
                    self._go_ahead(opened)

    def _go_ahead(self, turn: OpenTurn[Query]) -> None:
        messages = turn.following()
        if messages is not None and _plain(turn.query.request):
            task = asyncio.get_running_loop().create_task(self._send(turn, messages))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _send(self, turn: OpenTurn[Query], messages: list[dict[str, Any]]) -> None:
        serving, request, before = turn.query
        rid = f"{PREFIX}{next(self._numbers)}."
        key = (turn.tenant, turn.session)
        try:
            adapted = await asyncio.to_thread(_render, serving, request, messages, rid)
            if adapted.lora_path:
                return  # "model: base:adapter"; its weights are no part of what is sent
            note = Note(tenant=turn.tenant, session=turn.session, tools=msgspec.Raw(b"[]"), ahead=before)
            # SGLang goes on sampling for a batch that a request once joined that is not greedy.
            adapted.sampling_params = {"max_new_tokens": 0, "temperature": 0, "custom_params": {KEY: write(note)}}
            adapted.stream = adapted.return_logprob = adapted.return_prompt_token_ids = False
            manager = serving.tokenizer_manager
            tokenized = await _tokenize(manager, adapted)
            if self._turns.is_open(turn):
                older = self._ahead.get(key)
                if older is not None:
                    self._abort(manager, older)
                self._ahead[key] = rid
                await manager._send_one_request(tokenized)
        except Exception:
            logger.exception("a prompt is not prefilled ahead")

    def _abort(self, manager: Any, rid: str) -> None:
        from sglang.srt.managers.io_struct import AbortReq

        manager._dispatch_to_scheduler(AbortReq(rid=rid))

    def _listen(self) -> None:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            bus.sink("api").listen(self._loop, self.take)


_warmer: Warmer | None = None


def warmer() -> Warmer:
    """That of this process."""
    global _warmer
    if _warmer is None:
        _warmer = Warmer()
    return _warmer


def rendering() -> bool:
    """Whether a request that no client made is being converted."""
    return _rendering.get()


@harmless
def began(turn: ApiTurn, serving: Any, request: Any) -> None:
    """A chat request with tools has its session."""
    if arm.settings().warm_slice:
        warmer().began(turn, serving, request)


@harmless
def replied(turn: ApiTurn, meta: Mapping[str, Any], reply: Reply) -> None:
    """A chat request with tools was answered with calls."""
    if arm.settings().warm_slice and reply.calls:
        warmer().replied(turn, meta, reply)


async def _tokenize(manager: Any, adapted: Any) -> Any:
    adapted.normalize_batch_and_arguments()
    # Where requests have priorities, SGLang gives the lowest to one without.
    adapted.priority = None
    manager._init_req_state(adapted, None)
    try:
        return await manager._tokenize_one_request(adapted)
    finally:
        del manager.rid_to_state[adapted.rid]


def _plain(request: Any) -> bool:
    """Whether the next prompt depends on nothing but text: no adapter's weights, one choice, no ids given."""
    return request.n == 1 and not request.lora_path and request.input_ids is None and request.routed_dp_rank is None


def _render(serving: Any, request: Any, messages: list[dict[str, Any]], rid: str) -> Any:
    """The request that the client will make, as SGLang would convert it."""
    added = type(request).model_validate({"model": request.model, "messages": messages}).messages
    changes = {"messages": [*request.messages, *added], "stream": False, "rid": rid, "continue_final_message": False}
    token = _rendering.set(True)
    try:
        adapted, _ = serving._convert_to_internal_request(request.model_copy(update=changes))
    finally:
        _rendering.reset(token)
    return adapted
