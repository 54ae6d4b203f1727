"""Our counters among the server's own metrics (`--enable-metrics`)."""

from collections.abc import Callable, Mapping
from typing import Any

Values = Mapping[tuple[str, str], int]  # by name and label


class Counters:
    """Counters `paste_{room}_*` that follow `values`; `texts` has, by name, the label and the help of each. Made once
    the server runs: prometheus_client settles at its import where processes leave their values."""

    def __init__(self, room: str, texts: Mapping[str, tuple[str, str]], values: Callable[[], Values]) -> None:
        from prometheus_client import Counter

        self._values = values
        self._told: dict[tuple[str, str], int] = {}
        self._counters: dict[str, Any] = {
            name: Counter(f"paste_{room}_{name}", text, [label]) for name, (label, text) in texts.items()
        }

    def follow(self) -> None:
        """Tell what was counted since the last time."""
        for (name, label), value in self._values().items():
            new = value - self._told.get((name, label), 0)
            if new:
                self._told[name, label] = value
                self._counters[name].labels(label).inc(new)
