"""Metrics: two instances do not meet, and a client cannot make labels."""

from sglang_paste.observe.metrics import Metrics


def test_names_and_values_are_printed() -> None:
    metrics = Metrics(["read"])
    metrics.calls.labels("read", "reused").inc()
    metrics.engine_alive.set(1)
    metrics.waits.labels("reused").observe(0.0015)
    text = metrics.text().decode()
    assert 'paste_calls_total{outcome="reused",tool="read"} 1.0' in text
    assert "paste_engine_alive 1.0" in text
    assert 'paste_claim_wait_seconds_bucket{le="0.002",outcome="reused"} 1.0' in text
    assert "paste_calls_total{" not in Metrics(["read"]).text().decode()


def test_an_unknown_tool_is_one_label() -> None:
    metrics = Metrics(["read"])
    assert [metrics.tool(name) for name in ("read", "x" * 10_000, 'a"b')] == ["read", "other", "other"]
