"""The plugin that puts the calls a bench predicts for a request where the side process's own would be."""

from typing import Any

from sglang_paste.patches.roles import current_role

PREDICTED = "predicted_ids"
PLUGIN = "bench.decode.plugin:register"
SEPARATOR = -1


def register() -> None:
    """The entry point, in each process of a server."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    if current_role() == "scheduler":
        HookRegistry.register("sglang.srt.managers.schedule_batch.Req.__init__", made, HookType.AFTER)


def made(_result: None, req: Any, *_args: Any, **_kwargs: Any) -> None:
    """After a request was made: its predicted calls are hints, each behind the end of the prompt."""
    ids = (getattr(req.sampling_params, "custom_params", None) or {}).get(PREDICTED)
    if not ids:
        return
    from sglang_paste.draft.hints import Source
    from sglang_paste.patches.draft_hints import hints

    texts: list[list[int]] = [[]]
    for token in ids:
        if token == SEPARATOR:
            texts.append([])
        else:
            texts[-1].append(token)
    hints().put(req.rid, Source.PREDICTED, [[*req.origin_input_ids[-2:], *text] for text in texts], min_match=2)
