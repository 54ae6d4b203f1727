"""The timeline: one self-contained HTML page on which the overlap of model and tools can be seen."""

import html
import string
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib.resources import files
from pathlib import Path

import httpx
import msgspec

from sglang_paste.errors import PasteError
from sglang_paste.observe.spans import Span
from sglang_paste.observe.timeline_svg import TimelineRun, clean, draw, hatch, kind_of, seconds, swatch

__all__ = ["TimelineRun", "exposed", "main", "render", "runs_of"]

MAX_SESSIONS = 50
MAX_INPUT_BYTES = 64 * 1024 * 1024
HITS = ("reused", "joined", "promoted")
_LEGEND = {
    "model": "the model generates a turn",
    "ready": "a tool call is complete, the turn goes on",
    "hit": "a tool runs early, and is asked for",
    "claimed": "the moment it is asked for (dotted: the result waits)",
    "waste": "a tool ran early for nothing",
    "tool": "the agent waits for a tool",
    "overlap": "time a tool worked before it was asked for",
}
_COLUMNS = ("task", "side", "task time", "change", "waited for tools", *HITS, "not predicted", "wasted runs")


class _Answer(msgspec.Struct):
    title: str | None = None
    spans: tuple[Span, ...] = ()
    runs: tuple[TimelineRun, ...] = ()


def render(runs: Sequence[TimelineRun], title: str) -> str:
    """The page: a summary, a legend, and for each task its runs above each other, stock first.

    Runs belong to one task when their labels are equal. Names and arguments may hold anything; all is escaped.
    """
    tasks: dict[str, list[TimelineRun]] = {}
    for run in runs:
        tasks.setdefault(run.label, []).append(run)
    ordered = [sorted(group, key=lambda run: run.side != "stock") for group in tasks.values()]
    drawn = "".join(
        f'<h2>{html.escape(clean(group[0].label))}</h2><div class="scroll">{draw(group)}</div>' for group in ordered
    )
    legend = "".join(f"<li>{swatch(kind)}{text}</li>" for kind, text in _LEGEND.items())
    page = string.Template(files(__package__).joinpath("timeline.html").read_text(encoding="utf-8"))
    return page.substitute(
        title=html.escape(clean(title)), summary=_summary(ordered), legend=legend, tasks=hatch() + drawn
    )


def runs_of(spans: Iterable[Span]) -> list[TimelineRun]:
    """One run per session, the newest `MAX_SESSIONS` by start."""
    sessions: dict[str, list[Span]] = {}
    for span in spans:
        sessions.setdefault(span.session, []).append(span)
    runs = []
    for session, found in sessions.items():
        start = min(span.start for span in found)
        end = max(max(span.start, span.end or span.start) for span in found)
        label = f"session {session}" if session else "calls without a session"
        runs.append(
            TimelineRun(
                label=label,
                side="paste",
                spans=tuple(found),
                start=start,
                task_time=end - start,
                exposed_tool_time=exposed(found),
            )
        )
    return sorted(runs, key=lambda run: run.start)[-MAX_SESSIONS:]


def exposed(spans: Iterable[Span]) -> float:
    """Seconds in which the client waited for at least one tool."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted((span.start, span.end) for span in spans if span.lane == "tool" and span.end is not None):
        total += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return total


def main(source: str, output: str, token: str | None) -> int:
    """Write the page of a gateway's spans (`http://host:port`), or of a JSON file's; the exit status.

    A file holds what `GET /v1/spans` answers, or `{"title", "runs"}`.
    """
    try:
        answer = msgspec.json.decode(_read(source, token), type=_Answer)
        runs = list(answer.runs) or runs_of(answer.spans)
        if not runs:
            raise PasteError(f"{source} holds no spans; let an agent make a call first")
        Path(output).write_text(render(runs, answer.title or "What overlapped"), encoding="utf-8")
    except (PasteError, OSError, httpx.HTTPError, msgspec.DecodeError, UnicodeError) as error:
        print(f"no timeline was written: {error}", file=sys.stderr)
        return 1
    print(output)
    return 0


def _read(source: str, token: str | None) -> bytes:
    if not source.startswith(("http://", "https://")):
        path = Path(source)
        if path.stat().st_size > MAX_INPUT_BYTES:
            raise PasteError(f"{source} takes {path.stat().st_size} bytes; the limit is {MAX_INPUT_BYTES}")
        return path.read_bytes()
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    response = httpx.get(source.rstrip("/") + "/v1/spans", headers=headers, timeout=30.0, trust_env=False)
    if response.status_code == httpx.codes.UNAUTHORIZED:
        raise PasteError(f"{source} refused the token; give the gateway's API key")
    response.raise_for_status()
    return response.content


def _summary(tasks: Sequence[Sequence[TimelineRun]]) -> str:
    pairs = [group for group in tasks if len({run.side for run in group}) == 2]
    head = "".join(f"<th>{name}</th>" for name in _COLUMNS)
    body = "".join(_table_row(run, group) for group in tasks for run in group)
    table = f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    return _lead(pairs) + table + (_CAPTION if pairs else "")


_CAPTION = (
    '<p class="soft">Each task was run on both servers, drawn to one scale. On stock SGLang a tool starts only when '
    "the model’s turn is over and the agent has asked for it. With tool speculation it starts as soon as the call "
    "can be read from the stream, or earlier; when the agent asks, the result is there, or nearly.</p>"
)


def _lead(pairs: Sequence[Sequence[TimelineRun]]) -> str:
    """What came of it, in one sentence."""
    if not pairs:
        return ""
    sums = {
        side: (
            sum(_mean([run.task_time for run in group if run.side == side]) for group in pairs),
            sum(_mean([run.exposed_tool_time for run in group if run.side == side]) for group in pairs),
        )
        for side in ("stock", "paste")
    }
    (stock, waited), (ours, still) = sums["stock"], sums["paste"]
    tasks = "task" if len(pairs) == 1 else "tasks"
    change = _signed(100 * (ours - stock) / stock) if stock else "0"
    return (
        f'<p class="lead"><b>{len(pairs)} {tasks}: {seconds(stock)} on stock SGLang, {seconds(ours)} with tool '
        f"speculation ({change} %).</b> Waiting for tools took {seconds(waited)} of it, and now {seconds(still)}.</p>"
    )


def _table_row(run: TimelineRun, group: Sequence[TimelineRun]) -> str:
    first = run is group[0]
    stock = next((other.task_time for other in group if other.side == "stock"), None)
    outcomes = Counter(span.outcome for span in run.spans if span.lane == "tool")
    wasted = sum(kind_of(span) == "waste" for span in run.spans)
    change = f"{_signed(100 * (run.task_time - stock) / stock)} %" if stock and run.side == "paste" else ""
    counts = [str(outcomes[name]) for name in HITS] + [str(outcomes["run"]), str(wasted)]
    cells = [
        html.escape(clean(run.label)) if first else "",
        "stock" if run.side == "stock" else "speculation",
        seconds(run.task_time),
        change,
        seconds(run.exposed_tool_time),
        *(counts if run.side == "paste" else [""] * len(counts)),
    ]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "−")
