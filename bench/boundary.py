"""What boundaries cost the scheduler for each committed token, with and without tools.

`python -m bench.boundary` runs SGLang's real detectors over outputs of agents, one token per commit (the worst case),
and prints microseconds of the thread's CPU time per token. The check comes first: every call of the output was
announced as it was written.
"""

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sglang_paste.boundary import Turn, TurnHead, Vocabulary
from sglang_paste.boundary.gate import Decode, Reader
from sglang_paste.calls import DEFAULT_TENANT, SessionId
from sglang_paste.events import CallReady, EngineEvent

from .tool_formats import FORMATS, TOOLS, Call, Format

TARGET_US = 20.0
MODEL = Path(".cache/models/smollm2-135m")
PROSE = "I'll look at the files first: (1) the parser, (2) its tests. Then {maybe} the `config` [see above].\n"
CODE = 'def f(x: dict[str, int]) -> str:\n    return {"a": [x["b"], "}"], "c": f"{x!r}"}  # {braces}\n'


class Kept:
    """Keeps events, and says what sending them would cost."""

    def __init__(self) -> None:
        self.events: list[EngineEvent] = []

    def send(self, events: Sequence[EngineEvent]) -> None:
        self.events.extend(events)


def outputs(form: Format) -> dict[str, tuple[str, list[Call]]]:
    """Outputs by name: some prose and two small calls; one long file that is written."""
    small = [Call("read", {"path": "src/parser.py", "n": 40}), Call("z", {"path": "tests", "more": {"deep": [1, 2]}})]
    long = [Call("write_file", {"path": "src/new.py", "more": {"text": CODE * 250}})]
    prose = "" if form.choice == "required" or form.parser in ("llama3", "gpt-oss") else PROSE * 4
    return {name: (prose + "".join(form.render(calls)), calls) for name, calls in (("small", small), ("long", long))}


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a table; 1 where the check fails or the target is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.boundary", description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL, help="a folder with a tokenizer")
    parser.add_argument("--repeat", type=int, default=5, help="runs of each output; the median counts")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    options = parser.parse_args(argv)
    os.environ.setdefault("SGLANG_USE_CPU_ENGINE", "1")
    bench = Bench(options.model, options.repeat)
    rows = [row for name, form in FORMATS.items() for row in bench.rows(name, form)]
    print(f"{'format':16} {'output':6} {'tokens':>7} {'µs/token':>9} {'longest µs':>11}")
    for row in rows:
        print(f"{row['format']:16} {row['output']:6} {row['tokens']:7} {row['mean']:9.2f} {row['longest']:11.0f}")
    idle = bench.without_tools()
    print(f"a request without tools: {idle:.2f} µs per commit, hook and all")
    mean = statistics.fmean(row["mean"] for row in rows)
    print(f"mean over all formats and outputs: {mean:.2f} µs per token; target {TARGET_US:.0f}")
    if options.json:
        machine = {"python": platform.python_version(), "machine": platform.processor() or platform.machine()}
        options.json.write_text(json.dumps({**machine, "rows": rows, "without_tools": idle, "mean": mean}, indent=1))
    return 0 if all(row["mean"] <= TARGET_US for row in rows) else 1


class Bench:
    """Runs turns as the scheduler's hook does."""

    def __init__(self, model: Path, repeat: int) -> None:
        from sglang.srt.entrypoints.openai.protocol import Tool
        from transformers import AutoTokenizer

        from sglang_paste.patches.detector import ApiDetector, quiet
        from sglang_paste.patches.text import decoder

        quiet()
        self._tokenizer: Any = AutoTokenizer.from_pretrained(model)
        self._decode: Decode = decoder(self._tokenizer, skip_special=False)
        self._tools = [Tool.model_validate(tool) for tool in TOOLS]
        self._detector: Callable[..., Any] = ApiDetector
        self._vocabularies: dict[str, Vocabulary] = {}
        self._repeat = repeat
        # SGLang freezes what its processes have loaded once they serve, and so do we.
        gc.collect()
        gc.freeze()

    def rows(self, name: str, form: Format) -> list[dict[str, Any]]:
        """One row for each output of a format."""
        rows = []
        for output, (text, calls) in outputs(form).items():
            tokens = self._tokenizer.encode(text, add_special_tokens=False)
            self._check(form, tokens, calls)
            runs = [self._run(form, tokens) for _ in range(self._repeat)]
            mean = statistics.median(sum(times) / len(times) for times in runs)
            longest = statistics.median(max(times) for times in runs)
            rows.append({"format": name, "output": output, "tokens": len(tokens), "mean": mean, "longest": longest})
        return rows

    def without_tools(self) -> float:
        """What the hook costs a request that has none."""
        from sglang_paste.patches.scheduler import committed

        class Request:
            pass

        request, count = Request(), 200_000
        began = time.thread_time()
        for _ in range(count):
            committed(None, request, 1)
        return (time.thread_time() - began) / count * 1e6

    def _turn(self, form: Format, sink: Kept) -> Turn:
        detector = self._detector(self._tools, form.parser, form.choice, self._tokenizer)
        style = detector.shape.style
        vocabulary = self._vocabularies.setdefault(style, Vocabulary(self._decode, style))
        head = TurnHead(tenant=DEFAULT_TENANT, session=SessionId("s"), request="r")
        required = {tool.function.name: ("path",) for tool in self._tools}
        turn = Turn(head, detector, vocabulary, Reader(self._decode), sink, required=required)
        turn.start(0, tuple(required))
        return turn

    def _run(self, form: Format, tokens: Sequence[int]) -> list[float]:
        turn, times = self._turn(form, Kept()), []
        for token in tokens:
            began = time.thread_time()
            turn.commit([token])
            times.append((time.thread_time() - began) * 1e6)
        began = time.thread_time()
        turn.end("stop")
        times[-1] += (time.thread_time() - began) * 1e6
        return times

    def _check(self, form: Format, tokens: Sequence[int], calls: Sequence[Call]) -> None:
        kept = Kept()
        turn = self._turn(form, kept)
        for token in tokens:
            turn.commit([token])
        turn.end("stop")
        found = [(event.tool, json.loads(event.arguments)) for event in kept.events if isinstance(event, CallReady)]
        if found != [tuple(call) for call in calls]:
            raise SystemExit(
                f"{form.parser}: the calls that were announced are not the ones that were written: {found}"
            )


if __name__ == "__main__":
    sys.exit(main())
