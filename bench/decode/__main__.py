"""`python -m bench.decode`: tool calls through real servers that are told what to answer: stock SGLang, the same with
its NGRAM speculation, and ours, without and with the calls that the predictor really expects. NGRAM and
ours know the same earlier calls of other tasks."""

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.cpu import record
from bench.decode import lossless, together
from bench.decode.cases import CONTEXT, QUICK_CONTEXT, Case, Format, cases, made_up, recorded
from bench.decode.offered import Offering, without_predictions
from bench.decode.play import Played, play, warm
from bench.decode.plugin import Given
from bench.decode.predicted import Expected, mined, predictions
from bench.decode.prose import PROSE, QUESTION
from bench.decode.server import MODEL, OURS, Server, servers
from bench.drafts import NGRAM_DRAFTS, OUR_DRAFTS, ngram
from sglang_paste.mine.records import Call, Session

NGRAM_SWEEP = (3, 4, 6, 8, 12)
# Answers that a server gives before anything is timed, so that what is compiled and measured on first use is there.
FEW = 12


SIDES: dict[str, Sequence[str]] = {"stock": (), "ngram": ngram(NGRAM_DRAFTS), "ours": (OURS, *ngram(OUR_DRAFTS))}
PREDICTED = "ours+predicted"


class Work(msgspec.Struct, frozen=True):
    """What is played: calls, session by session, for each call the hints that there are, how many of them the predictor
    knew, and the calls that the server has answered before."""

    sessions: list[list[Case]]
    given: dict[tuple[str, int], Given]
    hits: int
    before: list[list[int]]

    @property
    def calls(self) -> int:
        return sum(map(len, self.sessions))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=Path, help="a folder of recorded sessions (default: made-up ones)")
    parser.add_argument("--quick", action="store_true", help="few calls, in under 10 minutes on two cores")
    parser.add_argument("--json", type=Path, help="where to write every row and the summary")
    parser.add_argument("--sweep", action="store_true", help="only compare settings of stock's NGRAM on the calls")
    parser.add_argument("--lossless", action="store_true", help="only compare greedy answers with stock's")
    parser.add_argument("--together", type=int, nargs="*", metavar="N", help="only compare prose, N answers at once")
    parser.add_argument("--prompts", type=int, default=200, help="how many of them (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="decode-") as folder:
        if arguments.lossless:
            return lossless.run(Path(folder), {side: SIDES[side] for side in ("stock", "ours")}, arguments.prompts)
        form = Format(tokenizer())
        if arguments.together is not None:
            pair = {side: SIDES[side] for side in ("stock", "ours")}
            ratios = together.run(Path(folder), form, pair, arguments.together or together.COUNTS)
            record.append("decode", {"together": ratios})
            return 0
        work = prepare(form, arguments.sessions, random.Random(arguments.seed), quick=arguments.quick)
        print(
            f"{work.calls} calls of {len(work.sessions)} sessions; the predictor knew {work.hits} of them", flush=True
        )
        if arguments.sweep:
            sweep(Path(folder), work)
            return 0
        with servers(Path(folder), SIDES, work.before) as running:
            for server in running:
                warm(server, work.before[:FEW])
            rows = [*play_calls(running, work), *play_prose(running, form)]
    summary = summarise(rows, work)
    show(rows, summary)
    result = {"summary": summary, "rows": [msgspec.to_builtins(row) for row in rows]}
    if arguments.json:
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    record.append("decode", {"sessions": "recorded" if arguments.sessions else "made up", **summary})
    return 0


def tokenizer() -> Any:
    """What encodes a text as the server does."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    return lambda text: list(tokenizer.encode(text, add_special_tokens=False).ids)


def prepare(form: Format, folder: Path | None, draw: random.Random, *, quick: bool) -> Work:
    """Choose the calls, and predict them from sessions of other tasks."""
    if folder is None:
        played, learned = made_up(4 if quick else 12, draw), made_up(40, draw)
    else:
        played, learned = recorded(folder, 12, draw)
    fitting = cases(played, form, 3, QUICK_CONTEXT if quick else CONTEXT)
    found = by_source(list(fitting), 1 if quick else 6)
    patterns, offering = mined(learned[: 800 if quick else 1600]), Offering(form)
    sources = {chain[0].source for chain in found}
    before = offering.served((each for each in learned if each.source in sources), 8 if quick else 32)
    tools = {source: tools_of(learned, source) for source in sources}
    given: dict[tuple[str, int], Given] = {}
    hits = 0
    for chain in found:
        expected = predictions(patterns, chain[0].session)
        for case in chain:
            guesses = expected.get(case.turn, Expected())
            given[key(case)] = offering.given(case, guesses, tools[case.source])
            offering.answered(case)
            call = calls_of(case)[0]
            hits += any((call.name, call.arguments) == guess[:2] for guess in guesses.opened)
    return Work(found, given, hits, [answer for answers in before.values() for answer in answers])


def calls_of(case: Case) -> Sequence[Call]:
    return case.session.turns[case.turn].tool_calls


def tools_of(sessions: Sequence[Session], source: str) -> list[str]:
    """The tools that a tenant has used."""
    used = (call.name for each in sessions if each.source == source for turn in each.turns for call in turn.tool_calls)
    return list(dict.fromkeys(used))


def by_source(chains: list[list[Case]], most: int) -> list[list[Case]]:
    """At most so many sessions of each source."""
    counts: dict[str, int] = {}
    kept = []
    for chain in chains:
        counts[chain[0].source] = counts.get(chain[0].source, 0) + 1
        if counts[chain[0].source] <= most:
            kept.append(chain)
    return kept


def key(case: Case) -> tuple[str, int]:
    return case.session.session_id, case.turn


def sweep(folder: Path, work: Work) -> None:
    """NGRAM at some numbers of drafts, each call on each of them."""
    sides: dict[str, Sequence[str]] = {"stock": (), **{f"ngram {drafts}": ngram(drafts) for drafts in NGRAM_SWEEP}}
    with servers(folder, sides, work.before) as running:
        for server in running:
            warm(server, work.before[:FEW])
        rows = play_calls(running, work)
    for side in sides:
        print(f"{side:10} {speed(rows, side, prose=False):6.1f} tok/s  {accept_length(rows, side):.2f} tokens a step")


def play_calls(running: Sequence[Server], work: Work) -> list[Played]:
    """Every call on every side, one request at a time, another side first each time."""
    order = [(server.side, server) for server in running]
    order += [(PREDICTED, server) for server in running if server.side == "ours"]
    rows = []
    for number, case in enumerate(case for chain in work.sessions for case in chain):
        start = number % len(order)
        for side, server in order[start:] + order[:start]:
            hints = {PREDICTED: work.given[key(case)], "ours": without_predictions(work.given[key(case)])}
            rows.append(play(server, side, case.source, case.prompt, case.answer, hints.get(side)))
        speeds = "  ".join(f"{row.side} {row.speed:.0f} tok/s" for row in rows[-len(order) :])
        print(f"call {number + 1} of {work.calls}, {case.source}, {len(case.answer)} tokens: {speeds}", flush=True)
    return rows


def play_prose(running: Sequence[Server], form: Format) -> list[Played]:
    """The prose on stock and on ours, twice, as what others do to the machine weighs more here."""
    question, rows = form.encode(QUESTION), []
    for number in range(2 * len(PROSE)):
        answer = form.encode(PROSE[number % len(PROSE)])
        pair = [server for server in running if server.side != "ngram"]
        for server in pair if number % 2 else reversed(pair):
            rows.append(play(server, server.side, "prose", [*question, number], answer))
    return rows


def speed(rows: Sequence[Played], side: str, *, prose: bool) -> float:
    """Tokens per second of decoding, over all answers."""
    own = [row for row in rows if row.side == side and (row.what == "prose") == prose]
    return sum(row.tokens - 1 for row in own) / sum(row.seconds for row in own)


def accept_length(rows: Sequence[Played], side: str) -> float:
    own = [row for row in rows if row.side == side and row.what != "prose"]
    return sum(row.tokens - 1 for row in own) / sum(row.steps for row in own)


def summarise(rows: Sequence[Played], work: Work) -> dict[str, Any]:
    """`ours` is with what the predictor expects; without it, it is `…_unpredicted`."""
    calls = {side: speed(rows, side, prose=False) for side in (*SIDES, PREDICTED)}
    prose = {side: speed(rows, side, prose=True) for side in ("stock", "ours")}
    return {
        "speedup_vs_stock": round(calls[PREDICTED] / calls["stock"], 3),
        "speedup_vs_ngram": round(calls[PREDICTED] / calls["ngram"], 3),
        "speedup_vs_stock_unpredicted": round(calls["ours"] / calls["stock"], 3),
        "speedup_vs_ngram_unpredicted": round(calls["ours"] / calls["ngram"], 3),
        "accept_length": round(accept_length(rows, PREDICTED), 3),
        "accept_length_unpredicted": round(accept_length(rows, "ours"), 3),
        "accept_length_ngram": round(accept_length(rows, "ngram"), 3),
        "prose_speedup": round(prose["ours"] / prose["stock"], 3),
        "tokens_per_second": {side: round(rate, 2) for side, rate in calls.items()},
        "ngram_drafts": NGRAM_DRAFTS,
        "calls": work.calls,
        "predicted_hits": work.hits,
    }


def show(rows: Sequence[Played], summary: dict[str, Any]) -> None:
    for what in sorted({row.what for row in rows}):
        for side in (*SIDES, PREDICTED):
            own = [row for row in rows if row.side == side and row.what == what]
            if own:
                tokens, steps, seconds = (
                    sum(getattr(row, name) for row in own) for name in ("tokens", "steps", "seconds")
                )
                middle = statistics.median(row.accept_length for row in own)
                print(
                    f"{what:20} {side:15} {len(own):3} answers {tokens / seconds:7.1f} tok/s"
                    f"  {tokens / max(steps, 1):5.2f} tokens a step (median {middle:.2f})"
                )
    for name, value in summary.items():
        print(f"{name:30} {value}")


if __name__ == "__main__":
    start = time.monotonic()
    code = main()
    print(f"{time.monotonic() - start:.0f} s")
    sys.exit(code)
