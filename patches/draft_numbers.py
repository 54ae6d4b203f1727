"""Which sources the accepted tokens come from: in an answer's `meta_info`, and among the server's metrics."""

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from sglang.srt.managers.scheduler_components.output_streamer import SchedulerOutputStreamer

from sglang_paste.draft.hints import Source
from sglang_paste.patches.counters import Counters
from sglang_paste.patches.draft_hints import ACCEPTED as KEY

PERIOD_S = 1.0
_TEXTS = {
    "verified_tokens": ("source", "Drafted tokens that were verified, by where they came from."),
    "accepted_tokens": ("source", "Drafted tokens that the model would have generated itself, by the same."),
}


class Numbers:
    """Drafted and accepted tokens of this server; what a request's own are stands on the request."""

    def __init__(self, *, metrics: bool) -> None:
        self._values: Counter[tuple[str, str]] = Counter()
        self._counters = Counters("draft", _TEXTS, lambda: self._values) if metrics else None
        self._told = 0.0

    def count(self, req: Any, source: Source, verified: int, accepted: int) -> None:
        """A step has verified a draft of a request."""
        self._values["verified_tokens", source.value] += verified
        self._values["accepted_tokens", source.value] += accepted
        own = accepted_of(req)
        if accepted:
            setattr(req, KEY, {**own, source.value: own.get(source.value, 0) + accepted})

    def tell(self) -> None:
        """Metrics, once a second."""
        if self._counters is not None and time.monotonic() >= self._told + PERIOD_S:
            self._told = time.monotonic()
            self._counters.follow()


class Streamer(SchedulerOutputStreamer):  # type: ignore[misc]
    """Adds `paste_accepted_drafts` to `meta_info`: accepted tokens by source."""

    has_additional_customized_info = True

    def build_additional_customized_info(self, reqs: Sequence[Any]) -> dict[str, list[list[dict[str, int]]]]:
        # The tokenizer process adds up lists; `tokenizer_manager:counted` makes one of them.
        return {KEY: [[accepted_of(req)] if req.finished() else [] for req in reqs]}

    def is_request_level_customized_info_key(self, key: str) -> bool:
        return key == KEY


def accepted_of(req: Any) -> dict[str, int]:
    """A request's accepted tokens by source."""
    found: dict[str, int] = getattr(req, KEY, {})
    return found


def streamer(result: type, scheduler: Any) -> type | None:
    """After `Scheduler.get_output_streamer_class`: ours where there are drafts."""
    return Streamer if scheduler.spec_algorithm.is_ngram() and result is SchedulerOutputStreamer else None
