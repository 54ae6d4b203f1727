"""`python -m bench.forced`: answers are the scripted ones, on stock SGLang, on the same with NGRAM, and on ours without
and with drafts.

No speed: prompts in chunks, requests retracted all the time, scripts of any ids, sampled and greedy, free requests
beside them, and a grammar that forbids a script.
"""

import random
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from bench.forced import FORCED_IDS
from bench.turns.server import OURS, servers

VOCABULARY = 49_152
NGRAM = ("--speculative-algorithm", "NGRAM")
POOL = 4_096
RETRACTING = {"SGLANG_TEST_RETRACT": "1", "SGLANG_TEST_RETRACT_INTERVAL": "13"}
_CHUNKS = ("--chunked-prefill-size", "128")


def main() -> int:
    sides: dict[str, Sequence[str]] = {
        "stock": _CHUNKS,
        "ngram": (*_CHUNKS, *NGRAM),
        "ours": (*_CHUNKS, *OURS),
        "drafts": (*_CHUNKS, *OURS, *NGRAM),
    }
    with (
        tempfile.TemporaryDirectory(prefix="forced-") as folder,
        servers(Path(folder), POOL, sides, variables=RETRACTING) as running,
    ):
        for server in running:
            count = check(server.port)
            print(f"{server.side}: {count} answers as scripted, and a grammar that forbids one is an error")
    return 0


def check(port: int, seed: int = 1) -> int:
    """How many answers were compared. Raises SystemExit where one is not as scripted."""
    draw = random.Random(seed)
    prompts = [_ids(draw, draw.randrange(1, 400)) for _ in range(16)]
    phrase = _ids(draw, 12)
    scripts = [*(_ids(draw, draw.randrange(1, 300)) for _ in range(4)), *(phrase * 12 for _ in range(4))]
    scripts += [[0, *_ids(draw, 9), 0, 1, 2, 2, *_ids(draw, 9)], *([] for _ in range(7))]
    with ThreadPoolExecutor(8) as pool:
        asked = [
            pool.submit(_ask, port, prompt, script, temperature=number % 2)
            for number, (prompt, script) in enumerate(zip(prompts, scripts, strict=True))
        ]
    compared = 0
    for script, answer in zip(scripts, asked, strict=True):
        found = answer.result()
        if script and found.get("output_ids") != script:
            raise SystemExit(f"the answer is {found}, not its script {script}")
        compared += bool(script)
    refused = _ask(port, prompts[0], phrase, temperature=0, regex="(a|b)+")
    if "left its script" not in str(refused):
        raise SystemExit(f"a grammar forbids the script, but the answer is {refused}")
    return compared


def _ask(port: int, prompt: list[int], script: list[int], **params: Any) -> Any:
    sampling: dict[str, Any] = {"max_new_tokens": 30, "repetition_penalty": 1.1, **params}
    if script:
        sampling["custom_params"] = {FORCED_IDS: script}
    body = {"input_ids": prompt, "sampling_params": sampling}
    return httpx.post(f"http://127.0.0.1:{port}/generate", json=body, timeout=300).json()


def _ids(draw: random.Random, count: int) -> list[int]:
    return [draw.randrange(VOCABULARY) for _ in range(count)]


if __name__ == "__main__":
    sys.exit(main())
