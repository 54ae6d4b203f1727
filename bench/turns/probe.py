"""What the bench adds to both servers alike, as a plugin of SGLang: it writes down when things happened.

It stands before the plugin of scripted answers, and so sees what the model itself would have said.
"""

import os
import time
import zlib
from collections.abc import Callable
from typing import Any

import msgspec

from bench.turns.stamps import Forward, Sent, Stamp
from sglang_paste.patches.roles import current_role

PLUGIN = "bench.turns.probe:register"
FOLDER = "BENCH_TURNS_STAMPS"

_file: int | None = None


def register() -> None:
    """The entry point, in each process of a server."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    managers, executor = "sglang.srt.managers", "sglang.srt.model_executor"
    role = current_role()
    if role == "main":
        HookRegistry.register(
            f"{managers}.tokenizer_manager.TokenizerManager._dispatch_to_scheduler", dispatched, HookType.AFTER
        )
    elif role == "scheduler":
        HookRegistry.register(f"{executor}.model_runner.ModelRunner.forward", forward, HookType.AROUND)


def dispatched(_result: None, _manager: Any, obj: Any) -> None:
    """After a request went to the scheduler."""
    now = time.monotonic()
    tokens = getattr(obj, "input_ids", None)
    if tokens is not None:
        _write(Sent(rid=obj.rid, time=now, tokens=len(tokens), digest=zlib.crc32(memoryview(tokens).cast("B"))))


def forward(original: Callable[..., Any], runner: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
    """Around a run of the model."""
    start = time.monotonic()
    result = original(runner, batch, *args, **kwargs)
    end = time.monotonic()
    if batch.rids:
        output = result.logits_output
        greedy = _greedy(output.next_token_logits, batch) if output is not None else []
        _write(Forward(list(batch.rids), start, end, batch.forward_mode.is_extend_without_speculative(), greedy))
    return result


def _greedy(logits: Any, batch: Any) -> list[int]:
    if logits is None or len(logits) != len(batch.rids):
        return []
    greedy: list[int] = logits.argmax(-1).tolist()
    return greedy


def _write(stamp: Stamp) -> None:
    global _file
    if _file is None:
        _file = os.open(f"{os.environ[FOLDER]}/{os.getpid()}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(_file, msgspec.json.encode(stamp) + b"\n")
