"""Calls as the server's model is taught to write them, and the tokens of such texts."""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from sglang.srt.function_call.function_call_parser import FunctionCallParser

from sglang_paste.boundary.turn import MAX_OPENING
from sglang_paste.calls import Arguments
from sglang_paste.draft.render import Frame, Style, learn
from sglang_paste.patches.detector import shape_of
from sglang_paste.patches.text import encoder
from sglang_paste.patches.turn_template import shared

logger = logging.getLogger(__name__)

_CACHED = 512
# A marker around a call's own opening, as <tool_call> is around <function=.
_OUTER = re.compile(r"<[^<>/\s][^<>\s]*>\s*\Z")
_QUESTION = {"role": "user", "content": "?"}
# Mistral's template takes no other ids.
_CALL_ID = "000000000"
_PROBES: tuple[tuple[str, Arguments], ...] = (
    ("probe_one", {"text": "é", "number": 1, "more": {"list": [True, None]}}),
    ("other", {"a": ["b", "c"], "d": 2.5}),
)


class Renderer:
    """Writes calls in the format of `--tool-call-parser`: as the chat template does, which is what the model has seen
    of its earlier calls, or else as SGLang's grammars would have them."""

    def __init__(self, tokenizer: Any, parser: str, template: str | None) -> None:
        self._detector = FunctionCallParser([], parser, tokenizer=tokenizer).detector
        self._opening = shape_of(parser, self._detector).opening
        self.encode = encoder(tokenizer)
        self._tokenizer = tokenizer
        self._template = template
        self._rendered = lru_cache(_CACHED)(self._render)
        self._frame = self._probe()

    def write(self, tool: str, arguments: Arguments) -> str | None:
        """The call's text from its opening on, with what ends the turn; None where nobody knows how it is written."""
        if self._frame is not None:
            return self._frame.write(tool, arguments)
        return self._rendered(tool, json.dumps(arguments))

    def _probe(self) -> Frame | None:
        """A frame that writes what the template does, or the grammar's where the template says nothing of calls."""
        texts = [self._render(tool, json.dumps(arguments)) for tool, arguments in _PROBES]
        if None in texts:
            return self._prescribed()
        (tool, arguments), _ = _PROBES
        frame = learn(texts[0] or "", tool, arguments)
        return frame if frame and [frame.write(*probe) for probe in _PROBES] == texts else None

    def _prescribed(self) -> Frame | None:
        tool = _PROBES[0][0]
        try:
            info = self._detector.structure_info()(tool)
        except Exception:
            return None
        before, named, between = info.begin.partition(tool)
        return Frame(before, between, info.end, Style()) if named else None

    def _render(self, tool: str, arguments: str) -> str | None:
        call = {
            "id": _CALL_ID,
            "type": "function",
            "function": {"name": tool, "arguments": json.loads(arguments)},
        }
        for content in ("", None):
            answer = {"role": "assistant", "content": content, "tool_calls": [call]}
            try:
                asked, answered = self._apply([_QUESTION], ask=True), self._apply([_QUESTION, answer], ask=False)
            except Exception:
                logger.debug("the chat template cannot render a call", exc_info=True)
                continue
            added = answered[shared(asked, answered) :]
            start = self.start(added)
            if start >= 0 and tool in added:
                return self._through_stop(added[start:])
        return None

    def start(self, text: str) -> int:
        """Where the first call in a text begins; -1 where there is none."""
        found = self._opening.search(text)
        if not found:
            return -1
        before = _OUTER.search(text, max(0, found.start() - MAX_OPENING), found.start())
        return before.start() if before else found.start()

    def _apply(self, messages: Sequence[Mapping[str, Any]], *, ask: bool) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                list(messages), chat_template=self._template, tokenize=False, add_generation_prompt=ask
            )
        )

    def _through_stop(self, text: str) -> str:
        stop = self._tokenizer.eos_token
        end = text.find(stop) if stop else -1
        return text[: end + len(stop)] if end >= 0 else text


def template_of(path: str | None) -> str | None:
    """The chat template of `--chat-template`, where that is a file of one; None for the tokenizer's own."""
    if path and path.endswith(".jinja"):
        return Path(path).read_text(encoding="utf-8").strip("\n")
    return None
