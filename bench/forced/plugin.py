"""The plugin of SGLang that keeps answers to their scripts. Only the scheduler's processes need it."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import msgspec

from bench.forced import FORCED_IDS
from sglang_paste.patches.roles import current_role


class Script(msgspec.Struct, frozen=True, weakref=True):
    """What a request emits, from position `start` of its sequence on. It lives as long as its request."""

    start: int
    ids: tuple[int, ...]


_scripts: WeakValueDictionary[str, Script] = WeakValueDictionary()
_tables: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def register() -> None:
    """The entry point, in each process of a server."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    if current_role() != "scheduler":
        return
    batches, executor = "sglang.srt.managers.schedule_batch", "sglang.srt.model_executor"
    HookRegistry.register(f"{batches}.Req.__init__", made, HookType.AFTER)
    HookRegistry.register(f"{batches}.Req.update_finish_state", finishing, HookType.AROUND)
    HookRegistry.register(f"{executor}.model_runner.ModelRunner.forward", forward, HookType.AROUND)


def made(_result: None, req: Any, *_args: Any, **_kwargs: Any) -> None:
    """After a request was made: it ends where its script does, and nowhere else. As many tokens as it asks for are left
    to it where the script ends with one that ends answers."""
    params = req.sampling_params
    ids = (getattr(params, "custom_params", None) or {}).get(FORCED_IDS)
    if ids:
        # A retracted request is prefilled again with what it has said, but its prompt stays as long as it is now.
        script = Script(len(req.origin_input_ids), tuple(ids))
        req.forced_script = _scripts[req.rid] = script
        asked = params.max_new_tokens or 0
        params.max_new_tokens = max(asked, len(ids)) if ids[-1] in (req.eos_token_ids or ()) else len(ids)
        params.min_new_tokens = 0
        params.stop_strs, params.stop_regex_strs, params.stop_token_ids = [], [], None


def forward(original: Callable[..., Any], runner: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
    """Around a run of the model."""
    result = original(runner, batch, *args, **kwargs)
    output = result.logits_output
    if batch.rids and output is not None and output.next_token_logits is not None and not runner.is_draft_worker:
        steer(runner, batch, output.next_token_logits)
    return result


def steer(runner: Any, batch: Any, logits: Any) -> None:
    """Raise the scripted tokens in the logits [rows, vocabulary] of a batch, with as many rows for each request."""
    from bench.forced.scripts import Scripts

    mode = batch.forward_mode
    if runner not in _tables:
        if not _scripts:
            return
        _tables[runner] = Scripts(len(runner.req_to_token_pool.req_to_token), logits.device)
    table = _tables[runner]
    slots = batch.req_pool_indices[: len(batch.rids)]
    if mode.is_extend_without_speculative():
        for slot, rid in zip(slots.tolist(), batch.rids, strict=True):
            script = _scripts.get(rid)
            table.put(slot, script.start if script else 0, script.ids if script else ())
    rows, left = divmod(len(logits), len(slots))
    assert not left, f"{len(logits)} rows of logits for {len(slots)} requests; each needs as many"
    positions = batch.positions[: len(logits)] if mode.is_target_verify() else batch.seq_lens[: len(slots)] - 1
    table.steer(logits, slots.repeat_interleave(rows), positions)


def finishing(original: Callable[..., None], req: Any, new_accepted_len: int = 1) -> None:
    """Around the decision whether a request has ended: one that has left its script ends with an error."""
    script: Script | None = getattr(req, "forced_script", None)
    if script is None or req.finished() or req.to_finish is not None:
        original(req, new_accepted_len)
        return
    said = len(req.output_ids)
    req.sampling_params.ignore_eos = said < len(script.ids)
    where = max(0, said - max(new_accepted_len, 1))
    found, wanted = tuple(req.output_ids[where : len(script.ids)]), script.ids[where:said]
    if found != wanted:
        req.to_finish = _diverged(f"at token {where} it said {found}, its script {wanted}")
    original(req, new_accepted_len)
    if req.finished() and said < len(script.ids) and "abort" not in req.finished_reason.to_json()["type"]:
        req.finished_reason = _diverged(f"it ended after {said} tokens of {len(script.ids)}")


def _diverged(what: str) -> Any:
    from sglang.srt.managers.schedule_batch import FINISH_ABORT

    message = f"the answer left its script: {what}; something else, such as a grammar, forbids it"
    return FINISH_ABORT(message, HTTPStatus.INTERNAL_SERVER_ERROR, "ForcedIdsError")
