"""The plugin by which stock's NGRAM knows answers as if it had given them before.

Its trie is given what it takes in while it generates: after each token, the last few. Generating them for real would
leave the same trie and take minutes.
"""

import os
from pathlib import Path
from typing import Any

import msgspec

from sglang_paste.patches.roles import current_role

VARIABLE = "BENCH_NGRAM_ANSWERS"
PLUGIN = "bench.decode.known:register"


def register() -> None:
    """The entry point, in each process of a server."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    if current_role() == "scheduler":
        worker = "sglang.srt.speculative.ngram_worker.NGRAMWorker"
        HookRegistry.register(f"{worker}.__init__", made, HookType.AFTER)


def made(_result: None, worker: Any, *_args: Any, **_kwargs: Any) -> None:
    """After the worker was made: fill its trie from the file that the environment names."""
    depth = worker.max_trie_depth
    for answer in msgspec.json.decode(Path(os.environ[VARIABLE]).read_bytes(), type=list[list[int]]):
        worker.ngram_corpus.batch_put([answer[max(0, end - depth) : end] for end in range(1, len(answer) + 1)])
    worker.ngram_corpus.synchronize()
