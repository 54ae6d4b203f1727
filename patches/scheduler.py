"""The scheduler's hooks: what its requests commit becomes events. Rank 0 of each replica only."""

import logging
import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import msgspec
from sglang.srt.entrypoints.openai.protocol import Tool
from sglang.srt.parser.response_template import tool_close_token_ids
from sglang.srt.runtime_context import get_parallel, get_serving

from sglang_paste.boundary import Sink, Turn, TurnHead, Vocabulary
from sglang_paste.boundary.gate import Decode, Reader
from sglang_paste.events import StopReason
from sglang_paste.patches import bus, draft_sources, retention
from sglang_paste.patches.arm import settings
from sglang_paste.patches.detector import ApiDetector, Reasoning, quiet
from sglang_paste.patches.text import decoder
from sglang_paste.session import Note
from sglang_paste.session.note import KEY, read

logger = logging.getLogger(__name__)

ATTRIBUTE = "paste_turn"
TOOL_SETS = 64
CONTEXT_TOKENS = 5
# The end of a call that is the stop token as well: the detokenizer leaves it in the text.
GPT_OSS_CALL = 200012


class ToolSet(NamedTuple):
    """Tools as a request declares them; `required` are the arguments that make a candidate, `schemas` all there are."""

    tools: list[Tool]
    names: tuple[str, ...]
    required: Mapping[str, tuple[str, ...]]
    schemas: Mapping[str, Any]


class Followed(NamedTuple):
    """What a request carries: its turn, and the stop tokens that stay in its text."""

    turn: Turn
    closers: Collection[int]


class Watch:
    """Begins the turns of this scheduler's requests."""

    def __init__(
        self, tokenizer: Any, parser: str, reasoning: str | None, sink: Sink, inert: Mapping[str, tuple[str, ...]]
    ) -> None:
        quiet()
        self.closers = tool_close_token_ids(parser, tokenizer) | ({GPT_OSS_CALL} if parser == "gpt-oss" else set())
        self._tokenizer = tokenizer
        self._parser = parser
        self._reasoning = reasoning
        self._sink = sink
        self._inert = inert
        self._decode: dict[bool, Decode] = {}
        self._vocabularies: dict[str, Vocabulary] = {}
        self._tool_sets: OrderedDict[bytes, ToolSet] = OrderedDict()

    def begin(self, req: Any, note: Note) -> Turn:
        """The turn of a request that was just queued, started."""
        tools = self._tool_set(bytes(note.tools))
        detector = self._detector(tools, note, stream=req.stream)
        style = detector.shape.style
        if style not in self._vocabularies:
            self._vocabularies[style] = Vocabulary(self._decoding(False), style)
        turn = Turn(
            TurnHead(tenant=note.tenant, session=note.session, request=req.rid),
            detector,
            self._vocabularies[style],
            Reader(self._decoding(req.sampling_params.skip_special_tokens), self._context(req)),
            self._sink,
            required=tools.required,
            tally=bus.TALLY,
        )
        turn.start(len(req.origin_input_ids), tools.names)
        draft_sources.began(req, note, tools.schemas)
        return turn

    def _detector(self, tools: ToolSet, note: Note, *, stream: bool) -> ApiDetector:
        reasoning = None
        if note.thinking is not None and self._reasoning:
            reasoning = Reasoning(self._reasoning, force=note.thinking, stream=bool(stream), tokenizer=self._tokenizer)
        return ApiDetector(tools.tools, self._parser, note.choice, self._tokenizer, reasoning)

    def _decoding(self, skip_special: bool) -> Decode:
        if skip_special not in self._decode:
            self._decode[skip_special] = decoder(self._tokenizer, skip_special=skip_special)
        return self._decode[skip_special]

    @staticmethod
    def _context(req: Any) -> list[int]:
        return [max(token, 0) for token in req.origin_input_ids_unpadded[-CONTEXT_TOKENS:]]

    def _tool_set(self, data: bytes) -> ToolSet:
        """Equal tools, request after request, are read once."""
        known = self._tool_sets.get(data)
        if known is None:
            tools = [Tool.model_validate(tool) for tool in msgspec.json.decode(data)]
            names = tuple(tool.function.name for tool in tools)
            required = {tool.function.name: self._needed(tool) for tool in tools}
            schemas = {tool.function.name: tool.function.parameters for tool in tools}
            known = self._tool_sets[data] = ToolSet(tools, names, required, schemas)
            if len(self._tool_sets) > TOOL_SETS:
                self._tool_sets.popitem(last=False)
        self._tool_sets.move_to_end(data)
        return known

    def _needed(self, tool: Tool) -> tuple[str, ...]:
        required = (tool.function.parameters or {}).get("required") or ()
        inert = self._inert.get(tool.function.name, ())
        return tuple(name for name in required if isinstance(name, str) and name not in inert)


@lru_cache(maxsize=1)
def watch(scheduler: Any) -> Watch | None:
    """This process's watch; None where another rank has it, or nothing can be parsed."""
    parallel, serving = get_parallel(), get_serving()
    if parallel.pp_rank or parallel.attn_tp_rank or parallel.attn_cp_rank:
        return None
    if scheduler.tokenizer is None or not serving.tool_call_parser or scheduler.disaggregation_mode.value == "prefill":
        return None
    sink = retention.tapped(scheduler, bus.sink("scheduler"))
    return Watch(
        scheduler.tokenizer,
        serving.tool_call_parser,
        serving.reasoning_parser,
        draft_sources.tapped(scheduler, sink, serving.tool_call_parser),
        settings().inert,
    )


def queued(original: Callable[..., Any], scheduler: Any, req: Any, is_retracted: bool = False) -> Any:
    """Around `Scheduler._add_request_to_queue`: the turn of a request with a note starts here."""
    custom = req.sampling_params.custom_params
    if custom and KEY in custom and not is_retracted:
        _begin(scheduler, req, custom[KEY])
    return original(scheduler, req, is_retracted)


def committed(_result: None, req: Any, new_accepted_len: int = 1) -> None:
    """After `Req.update_finish_state`: a run of tokens was committed, and perhaps the last one."""
    followed = getattr(req, ATTRIBUTE, None)
    if followed is None:
        return
    turn = followed.turn
    tokens = req.output_ids_through_stop
    if len(tokens) < turn.position:
        turn.restart()
        return
    added = tokens[turn.position :].tolist()
    if req.finished_reason is None:
        turn.commit(added)
    else:
        _finish(req, followed, added)


def aborted(_result: Any, req: Any, finished_reason: Mapping[str, Any] | None = None) -> None:
    """After `_make_abort_req`: a request that leaves without running, or between two steps."""
    followed = getattr(req, ATTRIBUTE, None)
    if followed is not None:
        followed.turn.end(_reason(finished_reason or {"type": "abort"}))


def _begin(scheduler: Any, req: Any, text: str) -> None:
    # Beam search commits its tokens past `update_finish_state`; a request without tokens only fills the cache.
    if (
        getattr(req, ATTRIBUTE, None) is not None
        or req.beam_group is not None
        or not req.sampling_params.max_new_tokens
    ):
        return
    try:
        eyes = watch(scheduler)
        if eyes is None:
            return
        turn = eyes.begin(req, read(text))
    except Exception:
        logger.exception("boundaries are off for request %s", req.rid)
        return
    setattr(req, ATTRIBUTE, Followed(turn, eyes.closers))
    # The net under all hooks: a request that is dropped by whatever way ends its turn.
    weakref.finalize(req, turn.end, "abort").atexit = False


def _finish(req: Any, followed: Followed, added: list[int]) -> None:
    turn, closers = followed
    reason = req.finished_reason.to_json()
    matched = reason.get("matched")
    keep = req.sampling_params.no_stop_trim
    if isinstance(matched, int) and added and not keep and added[-1] not in closers:
        added.pop()
    turn.commit(added)
    trim = _trim(matched, keep) if isinstance(matched, str) else None
    turn.end(_reason(reason), trim=trim)


def _trim(matched: str, keep: bool) -> Callable[[str], str]:
    def trim(text: str) -> str:
        at = text.find(matched)
        return text if at < 0 else text[: at + len(matched) if keep else at]

    return trim


def _reason(reason: Mapping[str, Any]) -> StopReason:
    kind = reason.get("type")
    if kind == "abort":
        return "error" if reason.get("status_code") else "abort"
    return "length" if kind == "length" else "stop"
