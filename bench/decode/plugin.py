"""The plugin by which a bench gives its requests the hints that `draft.offers` had for them.

A request's `custom_params` say them as JSON: those known when its turn began, those known once its call is named, and
after how many tokens that is.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from sglang_paste.draft.offers import Offer
from sglang_paste.patches.roles import current_role

HINTS = "draft_hints"
PLUGIN = "bench.decode.plugin:register"


class Given(msgspec.Struct, frozen=True):
    """The hints of one request; `named_after` counts tokens."""

    began: tuple[Offer, ...]
    named: tuple[Offer, ...]
    named_after: int


def register() -> None:
    """The entry point, in each process of a server."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    if current_role() == "scheduler":
        requests = "sglang.srt.managers.schedule_batch.Req"
        HookRegistry.register(f"{requests}.__init__", made, HookType.AFTER)
        HookRegistry.register(f"{requests}.update_finish_state", committed, HookType.AFTER)


def made(_result: None, req: Any, *_args: Any, **_kwargs: Any) -> None:
    """After a request was made: its turn begins."""
    text = (getattr(req.sampling_params, "custom_params", None) or {}).get(HINTS)
    if text:
        req.given_hints = given = msgspec.json.decode(text, type=Given)
        _put(req.rid, given.began)


def committed(_result: None, req: Any, *_args: Any, **_kwargs: Any) -> None:
    """After tokens were committed: the call may be named now."""
    given: Given | None = getattr(req, "given_hints", None)
    if given is not None and len(req.output_ids) >= given.named_after:
        req.given_hints = None
        if not req.finished():
            _put(req.rid, given.named)


def _put(request: str, offers: Sequence[Offer]) -> None:
    from sglang_paste.patches.draft_hints import hints

    for offer in offers:
        hints().put(request, offer.source, offer.texts, probabilities=offer.probabilities)
