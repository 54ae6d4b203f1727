"""Spans are bounded, belong to one tenant, and can be read while they are open."""

from sglang_paste.calls import SessionId, TenantId
from sglang_paste.observe.spans import MAX_DETAIL_CHARS, MAX_MARKS, Mark, Span, Spans

A, B = TenantId("a"), TenantId("b")


def span(tenant: TenantId = A, start: float = 0.0, detail: str = "") -> Span:
    return Span(tenant=tenant, session=SessionId("s"), lane="tool", name="read", detail=detail, start=start)


def test_a_span_is_seen_open_and_closed() -> None:
    spans = Spans()
    number = spans.open(span())
    spans.mark(number, Mark(time=1.0, name="claimed"))
    assert [(s.end, s.outcome) for s in spans.of(A)] == [(None, "running")]
    spans.close(number, end=2.0, outcome="run")
    spans.close(number, end=3.0, outcome="joined")
    spans.update(number, end=9.0, outcome="ready")
    [closed] = spans.of(A)
    assert (closed.end, closed.outcome, closed.marks) == (2.0, "run", (Mark(time=1.0, name="claimed"),))


def test_a_tenant_sees_its_own() -> None:
    spans = Spans()
    spans.open(span(A, 2.0))
    spans.open(span(B, 1.0))
    spans.close(spans.open(span(A, 1.0)), end=5.0, outcome="run")
    assert [s.start for s in spans.of(A)] == [1.0, 2.0]
    assert [s.tenant for s in spans.of(B)] == [B]


def test_memory_is_bounded() -> None:
    spans = Spans(limit=10)
    numbers = [spans.open(span(start=float(n), detail="x" * 1000)) for n in range(50)]
    assert [s.start for s in spans.of(A)] == [float(n) for n in range(40, 50)]
    assert all(len(s.detail) == MAX_DETAIL_CHARS for s in spans.of(A))
    spans.close(numbers[0], end=1.0, outcome="run")
    for number in numbers:
        for _ in range(MAX_MARKS + 5):
            spans.mark(number, Mark(time=0.0, name="call ready"))
    assert {len(s.marks) for s in spans.of(A)} == {MAX_MARKS}
    for _ in range(5):
        for number in [spans.open(span()) for _ in range(10)]:
            spans.close(number, end=1.0, outcome="run")
    assert len(spans.of(A)) == 10
