"""Greedy answers of two servers, one with drafts, compared token by token."""

import json
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from bench.decode.server import servers

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 24},
        "path": {"enum": ["src/main.py", "src/util.py", "tests/test_main.py"]},
        "lines": {"type": "array", "items": {"type": "integer", "maximum": 999}, "minItems": 1, "maxItems": 4},
    },
    "required": ["name", "path", "lines"],
}
OPENINGS = (
    "List the files src/main.py, src/util.py and tests/test_main.py again and again: src/main.py, src/util.py,",
    "The capital of France is",
    '{"name": "read_file", "path": "src/main.py", "lines": [1, 2]}\n{"name": "read_file", "path":',
    "def add(a, b):\n    return a + b\n\n\ndef subtract(a, b):\n",
    "Once upon a time there was a lighthouse keeper who",
    "one two three four five six seven one two three four",
    "To make tea, first",
    "SELECT name, age FROM users WHERE age > 30;\nSELECT name,",
)


def bodies(count: int, tokens: int = 32, seed: int = 1) -> list[dict[str, Any]]:
    """Requests: every third with a JSON schema, every ninth with a regular expression."""
    draw = random.Random(seed)
    made = []
    for number in range(count):
        opening = OPENINGS[number % len(OPENINGS)]
        text = f"Note {draw.randrange(1000)}. {opening}" if number >= len(OPENINGS) else opening
        params: dict[str, Any] = {"temperature": 0, "max_new_tokens": tokens}
        if number % 9 == 8:
            params["regex"] = r"(src|tests)/[a-z]{2,8}\.py( (src|tests)/[a-z]{2,8}\.py){2}"
        elif number % 3 == 2:
            params["json_schema"] = json.dumps(SCHEMA)
        made.append({"text": text, "sampling_params": params})
    return made


def answers(url: str, asked: Sequence[dict[str, Any]], size: int) -> list[Any]:
    """The answers, `size` requests at a time."""

    def ask(body: dict[str, Any]) -> Any:
        return httpx.post(f"{url}/generate", json=body, timeout=600).json()

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(ask, asked))


def differences(one: Sequence[Any], other: Sequence[Any]) -> list[int]:
    """Which answers are not the same tokens."""
    pairs = enumerate(zip(one, other, strict=True))
    return [number for number, (a, b) in pairs if a.get("output_ids") is None or a["output_ids"] != b.get("output_ids")]


def run(folder: Path, sides: dict[str, Sequence[str]], count: int) -> int:
    """Compare at 1 to 8 requests at a time; 1 where an answer differs."""
    asked = bodies(count)
    found: list[int] = []
    with servers(folder, sides) as (stock, ours):
        for size, part in batches(asked):
            known, new = (answers(server.url, part, size) for server in (stock, ours))
            differ = differences(known, new)
            drafted = sum(answer["meta_info"].get("spec_num_correct_drafts", 0) for answer in new)
            tokens = sum(len(answer["output_ids"]) for answer in new)
            print(f"{size} at a time: {len(part)} prompts, {len(differ)} differ, {drafted} of {tokens} tokens drafted")
            for number in differ:
                print(part[number]["text"][:60], part[number]["sampling_params"], sep="\n  ")
                print(known[number].get("output_ids"), new[number].get("output_ids"), sep="\n  ")
            found += differ
    return 1 if found else 0


def batches(asked: Sequence[dict[str, Any]]) -> list[tuple[int, Sequence[dict[str, Any]]]]:
    """The requests in four parts, which go 1, 2, 4 and 8 at a time."""
    quarter = -(-len(asked) // 4)
    return [(size, asked[place * quarter : (place + 1) * quarter]) for place, size in enumerate((1, 2, 4, 8))]
