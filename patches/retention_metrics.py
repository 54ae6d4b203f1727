"""What is retained, and what becomes of it, among the server's own metrics."""

from typing import Any

from sglang_paste.patches.counters import Counters
from sglang_paste.schedule.holds import Holds
from sglang_paste.schedule.keeper import Counts

_TEXTS = {
    "ends": ("reason", "Holds that ended before their session was back: for room, at their time limit, or with it."),
    "returns": ("outcome", "Sessions that came back, to all of what they left in the cache, to a part, or to nothing."),
    "tokens": ("outcome", "Tokens of what sessions came back for that were still in the cache, or not."),
}


class RetentionMetrics:
    """Counters and gauges `paste_retention_*`."""

    def __init__(self, counts: Counts, holds: Holds) -> None:
        from prometheus_client import Gauge

        self._counters = Counters("retention", _TEXTS, counts.values)
        self._holds = holds
        mode: Any = "mostrecent"
        self._held = Gauge("paste_retention_sessions", "Conversations that are held.", multiprocess_mode=mode)
        self._tokens = Gauge(
            "paste_retention_held_tokens", "Tokens on the paths that are held.", multiprocess_mode=mode
        )

    def follow(self) -> None:
        """Tell how it stands."""
        self._counters.follow()
        self._held.set(len(self._holds))
        self._tokens.set(self._holds.tokens())
