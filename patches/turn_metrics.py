"""What delta turns save, among the server's own metrics (`--enable-metrics`)."""

from typing import Any

from sglang_paste.session.delta import Counts

_TEXTS = {
    "prompts": (
        "outcome",
        "Prompts by what became of them: how much of each was tokenised already, or why nothing was.",
    ),
    "tokens": ("source", "Tokens of prompts that were kept from earlier ones, and that were made anew."),
    "answers": ("outcome", "Answers that came back in a prompt, by whether the model's own tokens could stay."),
}


class TurnMetrics:
    """Counters `paste_turn_*` that follow `counts`. Made once the server runs: prometheus_client settles at its import
    where processes leave their values."""

    def __init__(self, counts: Counts) -> None:
        from prometheus_client import Counter

        self._counts = counts
        self._told: dict[tuple[str, str], int] = {}
        self._counters: dict[str, Any] = {
            name: Counter(f"paste_turn_{name}", text, [label]) for name, (label, text) in _TEXTS.items()
        }

    def follow(self) -> None:
        """Tell what was counted since the last time."""
        for (name, label), value in self._counts.values().items():
            new = value - self._told.get((name, label), 0)
            if new:
                self._told[name, label] = value
                self._counters[name].labels(label).inc(new)
