import json
import re
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_paste.calls import DEFAULT_TENANT, SessionId
from sglang_paste.observe.spans import Lane, Mark, Span
from sglang_paste.observe.timeline import TimelineRun, exposed, main, render, runs_of
from sglang_paste.observe.timeline_svg import LEFT, RIGHT, WIDTH, kind_of, overlaps, rows, shorten

HOSTILE = "</title><script>alert(1)</script>\"'&<img src=x onerror=alert(1)>\x00\u202e"


def span(lane: Lane, start: float, end: float | None, outcome: str = "run", **more: Any) -> Span:
    given = {"tenant": DEFAULT_TENANT, "session": SessionId("s"), "name": "read", "detail": "{}"} | more
    return Span(lane=lane, start=start, end=end, outcome=outcome, **given)


def stock() -> TimelineRun:
    spans = (
        span("model", 10.0, 14.0, "tool_calls", name="turn", detail="turn 1"),
        span("tool", 14.0, 17.0),
        span("model", 17.0, 19.0, "stop", name="turn", detail="turn 2"),
    )
    return TimelineRun(label="task", side="stock", spans=spans, start=10.0, task_time=9.0, exposed_tool_time=3.0)


def ours() -> TimelineRun:
    claimed = Mark(time=54.0, name="claimed")
    spans = (
        span("model", 50.0, 54.0, "tool_calls", marks=(Mark(time=52.0, name="call ready"),)),
        span("speculative", 52.0, 55.0, "claimed", marks=(claimed,)),
        span("speculative", 53.0, 53.5, "squashed"),
        span("tool", 54.0, 55.0, "joined"),
        span("tool", 54.0, 54.2, "reused"),
        span("model", 55.0, 57.0, "stop"),
    )
    return TimelineRun(label="task", side="paste", spans=spans, start=50.0, task_time=7.0, exposed_tool_time=1.0)


class Page(HTMLParser):
    """Elements of the page; fails on a tag that is not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def of_class(self, name: str) -> int:
        return sum(name in (attributes.get("class") or "").split() for _, attributes in self.tags)


def test_the_page_shows_both_sides_and_the_sums() -> None:
    text = render([ours(), stock()], "A <demo>")
    page = Page(text)
    assert "<title>A &lt;demo&gt;</title>" in text
    assert text.index("Stock SGLang</text>") < text.index("With tool speculation</text>")
    assert "1 task: 9.00 s on stock SGLang, 7.00 s with tool speculation (−22.2 %)" in text
    row = [re.sub(r"<[^>]+>", "|", part) for part in re.findall(r"<tr>.*?</tr>", text)][2]
    assert [cell for cell in row.split("|") if cell] == [
        *("speculation", "7.00 s", "−22.2 %", "1.00 s", "1", "1", "0", "0", "1")
    ]
    assert page.of_class("span") == 9
    assert page.of_class("claimed") == 2
    assert page.of_class("ready") == 2


def test_the_page_needs_nothing_from_outside() -> None:
    page = Page(render([stock(), ours()], "title"))
    assert not [tag for tag, attributes in page.tags if {"src", "href", "xlink:href"} & attributes.keys()]
    assert not [tag for tag, _ in page.tags if tag in ("link", "img", "iframe", "object")]


def harmless(text: str, scripts: int = 1) -> bool:
    page = Page(text)
    return (
        sum(tag == "script" for tag, _ in page.tags) == scripts
        and not any(tag == "img" for tag, _ in page.tags)
        and not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
        and "\x00" not in text
        and "\u202e" not in text
    )


def hostile(text: str) -> TimelineRun:
    bad = span("tool", 0.0, 5.0, text, name=text, detail=text)
    early = span("speculative", 0.0, 5.0, text, name=text, detail=text)
    return TimelineRun(label=text, side="paste", spans=(bad, early), start=0.0, task_time=5.0, exposed_tool_time=5.0)


def test_names_and_arguments_are_escaped() -> None:
    assert harmless(render([hostile(HOSTILE)], HOSTILE))


@settings(deadline=None, max_examples=30)
@given(st.text(max_size=60))
def test_any_text_is_harmless(text: str) -> None:
    assert harmless(render([hostile(text)], text))


def test_a_page_without_escaping_is_caught() -> None:
    clean = render([hostile("plain")], "title")
    assert harmless(clean)
    assert not harmless(clean.replace("plain", "<script></script>"))


def test_a_run_without_spans_and_no_run_at_all() -> None:
    empty = TimelineRun(label="t", side="stock", spans=(), start=0.0, task_time=0.0, exposed_tool_time=0.0)
    assert harmless(render([empty], "t"))
    assert harmless(render([], "t"))


TIMES = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 20)), max_size=30)


@settings(deadline=None)
@given(TIMES)
def test_rows_keep_spans_apart(times: list[tuple[float, float]]) -> None:
    spans = [span("tool", start, start + length) for start, length in times]
    placed = rows(spans, 200.0)
    assert sorted(map(id, spans)) == sorted(id(one) for row in placed for one in row)
    for row in placed:
        assert all(a.end is not None and a.end <= b.start + 1e-6 for a, b in pairwise(row))


@settings(deadline=None)
@given(TIMES)
def test_waiting_is_counted_once(times: list[tuple[float, float]]) -> None:
    spans = [span("tool", start, start + length) for start, length in times]
    assert exposed(spans) <= sum(length for _, length in times) + 1e-6
    assert exposed([*spans, *spans]) == pytest.approx(exposed(spans))
    assert exposed([span("speculative", 0.0, 9.0)]) == 0.0


def test_bars_stay_inside_the_lane() -> None:
    long = msgspec.structs.replace(ours(), spans=(*ours().spans, span("tool", 56.0, None, "run")))
    for tag, attributes in Page(render([long, stock()], "t")).tags:
        if tag == "rect" and "rx" in attributes and attributes.get("height") == "20":
            left, width = float(attributes["x"] or 0), float(attributes["width"] or 0)
            assert left >= LEFT
            assert left + width <= WIDTH - RIGHT + 2.1


def test_overlap_is_what_ran_before_the_claim() -> None:
    assert overlaps(ours()) == [(52.0, 54.0)]
    assert overlaps(stock()) == []


@settings(deadline=None)
@given(st.text(), st.floats(0, 300))
def test_labels_fit(text: str, width: float) -> None:
    short = shorten(text, width)
    assert short == text or short == "" or short.endswith("…")
    assert len(short) * 6.7 <= width + 1e-6


def test_a_result_that_waits_is_no_waste() -> None:
    waits = span("speculative", 52.0, 53.0, "ready")
    later = span("speculative", 52.0, 53.0, "ready", marks=(Mark(time=54.0, name="claimed"),))
    ended = span("speculative", 52.0, 53.0, "expired")
    assert [kind_of(one) for one in (waits, later, ended)] == ["pending", "hit", "waste"]
    assert len(rows([later, span("speculative", 53.5, 53.6)], 60.0)) == 2


def test_sessions_become_runs() -> None:
    spans = [span("tool", 1.0, 2.0), span("model", 0.0, 1.0, session=SessionId("other")), span("tool", 5.0, None)]
    found = {run.label: run for run in runs_of(spans)}
    assert found.keys() == {"session s", "session other"}
    assert (found["session s"].start, found["session s"].task_time) == (1.0, 4.0)
    assert runs_of([span("tool", 1.0, 2.0, session=SessionId(""))])[0].label == "calls without a session"


def test_a_file_of_spans_or_runs_becomes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = tmp_path / "spans.json", tmp_path / "out.html"
    source.write_bytes(msgspec.json.encode({"spans": ours().spans}))
    assert main(str(source), str(output), None) == 0
    assert "session s" in output.read_text()
    source.write_bytes(msgspec.json.encode({"title": "mine", "runs": [stock(), ours()]}))
    assert main(str(source), str(output), None) == 0
    assert "<title>mine</title>" in output.read_text()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"spans": [{"lane": 1}]}', '{"spans": []}', "\udcff"])
def test_a_bad_file_is_one_sentence(tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "spans.json"
    source.write_text(content, errors="surrogateescape")
    assert main(str(source), str(tmp_path / "out.html"), None) == 1
    assert main(str(tmp_path / "absent"), str(tmp_path / "out.html"), None) == 1
    assert not (tmp_path / "out.html").exists()
    assert capsys.readouterr().err.count("no timeline was written: ") == 2


class Gateway(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        allowed = self.headers.get("Authorization") == "Bearer key" and self.path == "/v1/spans"
        body = msgspec.json.encode({"spans": ours().spans}) if allowed else json.dumps({"error": {}}).encode()
        self.send_response(200 if allowed else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def gateway() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Gateway)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_gateway_is_asked_with_its_token(gateway: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out.html"
    assert main(gateway + "/", str(output), "key") == 0
    assert "session s" in output.read_text()
    assert main(gateway, str(output), "wrong") == 1
    assert "refused the token" in capsys.readouterr().err
