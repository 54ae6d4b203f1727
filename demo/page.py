"""The demo's runs as the timeline page draws them: the agent's own clock for model and tools, the gateway's spans
for what ran early."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import msgspec

from demo.agent import TaskRun
from sglang_paste.calls import DEFAULT_TENANT, SessionId
from sglang_paste.observe.spans import Mark, Span
from sglang_paste.observe.timeline import TimelineRun, render

TITLE = "The same agent on stock SGLang and with tool speculation"


def write_page(page: Path, tasks: Iterable[tuple[TaskRun, TaskRun, tuple[Span, ...]]]) -> None:
    """Write the page for (stock, paste, the gateway's spans during paste) of each task."""
    runs: list[TimelineRun] = []
    for stock, paste, spans in tasks:
        runs.append(_drawn(stock, "stock", ()))
        runs.append(_drawn(paste, "paste", spans))
    page.write_text(render(runs, TITLE), encoding="utf-8")


def _drawn(run: TaskRun, side: Literal["stock", "paste"], spans: Iterable[Span]) -> TimelineRun:
    marks = tuple(mark for span in spans if span.lane == "model" for mark in span.marks)
    early = [_ended(span) for span in spans if span.lane == "speculative"]
    return TimelineRun(
        label=run.task,
        side=side,
        spans=(*_agent_spans(run, marks), *early),
        start=run.steps[0].asked,
        task_time=run.seconds,
        exposed_tool_time=run.exposed,
    )


def _ended(span: Span) -> Span:
    """A run whose result nobody had asked for when the task was over."""
    if span.outcome in ("ready", "running"):
        return msgspec.structs.replace(span, outcome="unclaimed")
    return span


def _agent_spans(run: TaskRun, marks: tuple[Mark, ...]) -> Iterable[Span]:
    session = SessionId(run.task)
    for step in run.steps:
        yield Span(
            tenant=DEFAULT_TENANT,
            session=session,
            lane="model",
            name="turn",
            detail=f"{step.tool} {step.arguments}" if step.tool else "answer",
            start=step.asked,
            end=step.generated,
            outcome="tool_calls" if step.tool else "stop",
            marks=tuple(mark for mark in marks if step.asked <= mark.time <= step.generated),
        )
        if step.tool:
            yield Span(
                tenant=DEFAULT_TENANT,
                session=session,
                lane="tool",
                name=step.tool,
                detail=step.arguments,
                start=step.generated,
                end=step.returned,
                outcome=step.outcome,
            )
