"""What the bench adds to both servers alike, as a plugin of SGLang: scripted answers, and when things happened.

`custom_params.script` of a request holds the tokens it answers with. The model runs as it would for any answer; only
the logit of the next token of the script is raised above all others. A row of logits whose last token is the n-th of
its sequence chooses token n of it, counted from 0, so that neither chunks nor a retraction put a script out of step.
"""

import os
import time
import zlib
from collections.abc import Callable
from typing import Any

import msgspec

from bench.turns.stamps import Forward, Sent, Stamp
from sglang_paste.patches.roles import current_role

SCRIPT = "script"
FOLDER = "BENCH_TURNS_STAMPS"
_ABOVE_ALL = 1e4

_scripts: dict[str, tuple[int, list[int]]] = {}
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
        HookRegistry.register(f"{managers}.schedule_batch.Req.__init__", made, HookType.AFTER)
        HookRegistry.register(f"{executor}.model_runner.ModelRunner.forward", forward, HookType.AROUND)


def dispatched(_result: None, _manager: Any, obj: Any) -> None:
    """After a request went to the scheduler."""
    now = time.monotonic()
    tokens = getattr(obj, "input_ids", None)
    if tokens is not None:
        _write(Sent(rid=obj.rid, time=now, tokens=len(tokens), digest=zlib.crc32(memoryview(tokens).cast("B"))))


def made(_result: None, req: Any, *_args: Any, **_kwargs: Any) -> None:
    """After a request was made in the scheduler: its script is kept."""
    script = (getattr(req.sampling_params, "custom_params", None) or {}).get(SCRIPT)
    if script:
        _scripts[req.rid] = len(req.origin_input_ids), script


def forward(original: Callable[..., Any], runner: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
    """Around a run of the model."""
    start = time.monotonic()
    result = original(runner, batch, *args, **kwargs)
    end = time.monotonic()
    if batch.rids:
        output = result.logits_output
        greedy = _steer(output.next_token_logits, batch) if output is not None else []
        _write(Forward(list(batch.rids), start, end, bool(batch.forward_mode.is_extend()), greedy))
    return result


def _steer(logits: Any, batch: Any) -> list[int]:
    if logits is None or len(logits) != len(batch.rids):
        return []
    greedy: list[int] = logits.argmax(-1).tolist()
    for row, (rid, length) in enumerate(zip(batch.rids, batch.seq_lens.tolist(), strict=True)):
        prompt, script = _scripts.get(rid, (0, []))
        if 0 <= length - prompt < len(script):
            logits[row, script[length - prompt]] = _ABOVE_ALL
    return greedy


def _write(stamp: Stamp) -> None:
    global _file
    if _file is None:
        _file = os.open(f"{os.environ[FOLDER]}/{os.getpid()}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(_file, msgspec.json.encode(stamp) + b"\n")
