"""Prose for several at once on stock and on ours, in which nothing can be looked up: what drafting costs where it gains
nothing."""

import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

from bench.decode.cases import Format
from bench.decode.play import play
from bench.decode.prose import PROSE, QUESTION
from bench.decode.server import Server, servers

COUNTS = (1, 2, 4, 8, 16, 32, 64)
ROUNDS = 5


def run(folder: Path, form: Format, sides: dict[str, Sequence[str]], counts: Sequence[int]) -> dict[str, Any]:
    """Stock's seconds through ours for so many answers at once, another side first each time."""
    question, answers = form.encode(QUESTION), [form.encode(text) for text in PROSE]
    numbers = count()

    def seconds(server: Server, size: int, number: int) -> float:
        def one(place: int) -> None:
            play(server, server.side, "prose", [*question, number, place], answers[place % len(answers)])

        began = time.perf_counter()
        with ThreadPoolExecutor(size) as pool:
            list(pool.map(one, range(size)))
        return time.perf_counter() - began

    found: dict[str, Any] = {}
    with servers(folder, sides) as running:
        for size in counts:
            ratios = []
            for number in range(ROUNDS + 1):
                pair, shared = running if number % 2 else running[::-1], next(numbers)
                took = {server.side: seconds(server, size, shared) for server in pair}
                if number:  # the first round is there for what is made on first use
                    ratios.append(took["stock"] / took["ours"])
                print(f"{size} at once: stock {took['stock']:.2f} s, ours {took['ours']:.2f} s", flush=True)
            found[str(size)] = {"median": round(statistics.median(ratios), 3), "all": [round(r, 3) for r in ratios]}
    for at_once, ratio in found.items():
        print(f"{at_once:>3} at once: stock / ours {ratio['median']:.3f}  {ratio['all']}")
    return found
