"""What delta turns save, told to Prometheus."""

from prometheus_client import REGISTRY

from sglang_paste.patches.turn_metrics import turn_metrics
from sglang_paste.session.delta import Counts


def told(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(f"paste_turn_{name}_total", labels)


def test_counters_follow() -> None:
    counts = Counts()
    metrics = turn_metrics(counts)
    counts.prompts["extended"] += 1
    counts.tokens["kept"] += 900
    metrics.follow()
    counts.tokens["kept"] += 100
    counts.answers["kept"] += 1
    metrics.follow()
    metrics.follow()
    assert told("prompts", outcome="extended") == 1
    assert told("tokens", source="kept") == 1000
    assert told("answers", outcome="kept") == 1
    assert told("prompts", outcome="branched") is None
