"""Lookup and packing for a batch against SGLang's trie and mask loop, and against plain torch, on the device there is.

    python -m bench.kernels [--quick] [--json FILE] [--device cuda]

First the drafts are compared with plain torch's for every shape, and links and masks with the references.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.cpu.record import append, commit, hardware, versions
from bench.kernels.plain import plain_match
from bench.kernels.stock import StockPath
from sglang_paste.kernels.draft_pack import Pack, draft_pack
from sglang_paste.kernels.draft_pack import reference as pack_reference
from sglang_paste.kernels.draft_pack.types import empty_pack
from sglang_paste.kernels.ngram_match import Match, ngram_match

MIN_MATCH, MAX_MATCH, DRAFT, WIDTH = 2, 16, 8, 8
QUICK = [(batch, length) for batch in (1, 8, 64) for length in (1 << 10, 1 << 15)] + [(1, 1 << 18)]
FULL = [(batch, 1 << power) for batch in (1, 2, 4, 8, 16, 32, 64, 128) for power in (10, 12, 15, 17, 18)]
PLAIN_TOKENS = 1 << 22


def main() -> int:
    arguments = parse()
    device = torch.device(arguments.device)
    rows, bandwidth = [], measured_bandwidth(device)
    print(f"device: {described(device)}, {bandwidth / 1e9:.0f} GB/s copied; times are medians in microseconds")
    for batch, length in QUICK if arguments.quick else FULL:
        row = measure(batch, length, device, arguments.repeats, bandwidth)
        if row is None:
            print(f"batch {batch}, length {length}: the drafts differ, so no speed is told")
            return 1
        rows.append(row)
        print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
    result = {"device": described(device), "rows": rows, "summary": summary(rows)}
    if arguments.json:
        head = {"commit": commit(), "hardware": hardware(), "versions": versions()}
        Path(arguments.json).write_text(json.dumps(head | result, indent=1) + "\n")
    print(f"appended to {append('kernels', result)}")
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.kernels", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer shapes, under two minutes on two cores")
    parser.add_argument("--json", help="also write the result to this file")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--repeats", type=int, default=15)
    return parser.parse_args()


def described(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU ({hardware()['cpu']})"


def histories(batch: int, length: int, device: torch.device) -> Tensor:
    """Tokens with the skew of text. Three rows of four end as they went somewhere before, one has no such place."""
    generator = torch.Generator().manual_seed(batch * length)
    text = (torch.rand((batch, length), generator=generator) ** 4 * 49_000).to(torch.int32)
    for row in range(batch):
        if row % 4 < 3:
            place = int(torch.randint(0, length - 64, (1,), generator=generator))
            text[row, -MAX_MATCH:] = text[row, place : place + MAX_MATCH]
    return text.to(device)


def measure(
    batch: int, length: int, device: torch.device, repeats: int, bandwidth: float
) -> dict[str, float | int | None] | None:
    """One row of the table, or None when a check fails."""
    text = histories(batch, length, device)
    lengths = torch.full((batch,), length, device=device)
    total = None if device.type == "cpu" else batch * length
    match, packs = look_up(text, lengths), empty_pack(batch, WIDTH, total, device)
    if not (same_drafts(match, text, lengths) and same_pack(match, text, lengths, total)):
        return None
    stock = StockPath(text, [length] * batch, WIDTH)
    sides: dict[str, Callable[[], object]] = {
        "match": lambda: look_up(text, lengths, match),
        "match_pack": lambda: pack(look_up(text, lengths, match), text, lengths, packs),
        "host_path": stock.step,
    }
    if batch * length <= PLAIN_TOKENS:
        sides["plain_torch"] = lambda: plain_match(text, lengths, MIN_MATCH, MAX_MATCH, DRAFT)
    times = alternate(sides, device, repeats)
    row: dict[str, float | int | None] = {"batch": batch, "length": length}
    row |= {f"{name}_us": times.get(name) for name in ("match", "match_pack", "host_path", "plain_torch")}
    if device.type == "cuda":
        row["match_pack_device_us"] = device_time(sides["match_pack"])
    return row | {
        "floor_us": round(text.numel() * text.element_size() / bandwidth * 1e6, 1),
        "matched": round(float((match.length > 0).float().mean()), 2),
    }


def look_up(text: Tensor, lengths: Tensor, out: Match | None = None) -> Match:
    return ngram_match(text, lengths, min_match=MIN_MATCH, max_match=MAX_MATCH, draft=DRAFT, out=out)


def pack(match: Match, text: Tensor, lengths: Tensor, out: Pack) -> Pack:
    drafts, counts = match.tokens[:, None], match.count[:, None]
    return draft_pack(text[:, -1], drafts, counts, lengths, torch.full_like(lengths, WIDTH), width=WIDTH, out=out)


def same_drafts(match: Match, text: Tensor, lengths: Tensor) -> bool:
    few = slice(0, max(1, PLAIN_TOKENS // text.shape[1]))
    tokens, length = plain_match(text[few], lengths[few], MIN_MATCH, MAX_MATCH, DRAFT)
    return bool(torch.equal(match.tokens[few], tokens) and torch.equal(match.length[few].long(), length.long()))


def same_pack(match: Match, text: Tensor, lengths: Tensor, total: int | None) -> bool:
    batch = len(text)
    ours = pack(match, text, lengths, empty_pack(batch, WIDTH, total, text.device))
    truth = empty_pack(batch, WIDTH, total, torch.device("cpu"))
    roots, drafts, counts = text[:, -1].cpu(), match.tokens[:, None].cpu(), match.count[:, None].cpu()
    host_lengths = lengths.cpu()
    limits = torch.full_like(host_lengths, WIDTH)
    pack_reference.draft_pack(roots, drafts, counts, host_lengths, limits, WIDTH, "tree", truth)
    return all(a is b if a is None or b is None else torch.equal(a.cpu(), b) for a, b in zip(ours, truth, strict=True))


def alternate(sides: dict[str, Callable[[], object]], device: torch.device, repeats: int) -> dict[str, float]:
    """Medians in microseconds, the sides taking turns."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for repeat in range(-3, repeats):
        for name, side in sides.items():
            if device.type == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            side()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if repeat >= 0:
                times[name].append(time.perf_counter() - start)
    return {name: round(statistics.median(seconds) * 1e6, 1) for name, seconds in times.items()}


def device_time(side: Callable[[], object], replays: int = 50) -> float:
    """Microseconds on the card alone: the launches are replayed as one graph."""
    graph, start, end = torch.cuda.CUDAGraph(), *(torch.cuda.Event(enable_timing=True) for _ in range(2))
    with torch.cuda.graph(graph):
        side()
    graph.replay()
    start.record()
    for _ in range(replays):
        graph.replay()
    end.record()
    end.synchronize()
    return round(float(start.elapsed_time(end)) * 1000 / replays, 1)


def measured_bandwidth(device: torch.device) -> float:
    """Bytes per second that a copy reads and writes."""
    source = torch.zeros(1 << 26, dtype=torch.int32, device=device)
    target = torch.empty_like(source)
    fastest = min(alternate({"copy": lambda: target.copy_(source)}, device, 5).values())
    return float(2 * source.numel() * source.element_size() / (fastest / 1e6))


def summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """`match_pack_us` and `host_path_us` by batch and length."""
    told: dict[str, dict[str, dict[str, float]]] = {"match_pack_us": {}, "host_path_us": {}}
    for row in rows:
        for name, table in told.items():
            table.setdefault(str(row["batch"]), {})[str(row["length"])] = row[name]
    return told


if __name__ == "__main__":
    sys.exit(main())
