"""The side process's metrics, in a Prometheus registry of their own."""

from collections.abc import Container

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)


class Metrics:
    """Counters, gauges and histograms by name. Labels take values that the operator configured, never a client's:
    `tools` holds the configured names and may change."""

    def __init__(self, tools: Container[str] = ()) -> None:
        self.registry = CollectorRegistry()
        self._tools = tools
        self.events = self._counter("events", "Events received from the engine.", "type")
        self.malformed = self._gauge("malformed_frames", "Frames that were dropped as malformed or oversized.")
        self.dropped = self._gauge("dropped_events", "Events the engine's processes could not send.", "process")
        self.unread = self._gauge("unread_turns", "Turns whose calls were not looked for to the end.", "process")
        self.starts = self._gauge("side_process_starts", "How often the server has started this side process.")
        self.engine_alive = self._gauge("engine_alive", "1 while the engine's heartbeat is heard.")
        self.predictions = self._counter("predictions", "Candidates offered by the predictors.", "source")
        self.admissions = self._counter("admissions", "Candidates that were admitted to run early.", "source")
        self.refusals = self._counter("refusals", "Candidates that were not admitted.", "reason")
        self.runs = self._counter("runs", "Tool runs started.", "tool", "kind")
        self.ends = self._counter("speculative_ends", "Ends of speculative runs.", "tool", "end")
        self.wasted = self._counter("wasted_runs", "Speculative runs nobody claimed.", "tool")
        self.wasted_seconds = self._counter("wasted_seconds", "Tool seconds of speculative runs nobody claimed.")
        self.squashes = self._counter("squashes", "Entries squashed.", "reason")
        self.calls = self._counter("calls", "Authoritative calls answered.", "tool", "outcome")
        self.errors = self._counter("errors", "Calls answered with an error.", "type")
        self.waits = self._histogram("claim_wait_seconds", "What a client waited for an answer.", "outcome")
        self.durations = self._histogram("tool_seconds", "What a tool's own run took.", "tool")
        self.entries = self._gauge("entries", "Live ledger entries.")
        self.result_bytes = self._gauge("result_bytes", "Memory held by results nobody has claimed yet.")

    def tool(self, name: str) -> str:
        """The label of a tool; one for all names that are not configured."""
        return name if name in self._tools else "other"

    def text(self) -> bytes:
        """Everything in Prometheus's text format."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"paste_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"paste_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(f"paste_{name}", text, labels, buckets=_SECONDS, registry=self.registry)
