"""What delta turns save, among the server's own metrics."""

from sglang_paste.patches.counters import Counters
from sglang_paste.session.delta import Counts

_TEXTS = {
    "prompts": (
        "outcome",
        "Prompts by what became of them: how much of each was tokenised already, or why nothing was.",
    ),
    "tokens": ("source", "Tokens of prompts that were kept from earlier ones, and that were made anew."),
    "answers": ("outcome", "Answers that came back in a prompt, by whether the model's own tokens could stay."),
}


def turn_metrics(counts: Counts) -> Counters:
    """Counters `paste_turn_*` that follow `counts`."""
    return Counters("turn", _TEXTS, counts.values)
