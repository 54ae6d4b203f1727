"""An answer says at its end which sources its accepted drafts came from."""

import os
import warnings
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_paste.draft.hints import Source
from sglang_paste.patches import tokenizer_manager as hooks
from sglang_paste.patches.draft_hints import ACCEPTED

os.environ.setdefault("SGLANG_USE_CPU_ENGINE", "1")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from sglang.srt.managers.tokenizer_manager import TokenizerManager

    from sglang_paste.patches.draft_numbers import Numbers, Streamer

pytestmark = pytest.mark.host


class Request:
    """A request that ends when it is told to."""

    def __init__(self) -> None:
        self.over = False

    def finished(self) -> bool:
        return self.over


def outputs(req: Request, ends: list[bool]) -> list[dict[str, Any]]:
    """What the tokenizer process has as `meta_info` after each output of a request."""
    manager = SimpleNamespace(_accumulate_request_meta_info=TokenizerManager._accumulate_request_meta_info)
    state = SimpleNamespace(customized_info_accumulated={}, customized_info_reported_keys=set())
    found = []
    for req.over in ends:
        meta: dict[str, Any] = {}
        told = Streamer.build_additional_customized_info(None, [req])
        TokenizerManager.update_request_meta_info(manager, meta, state, told, 0, None)
        hooks.counted(None, manager, meta, state, told, 0, None)
        found.append(meta)
    return found


def test_what_was_accepted_is_said_once_at_the_end() -> None:
    req, numbers = Request(), Numbers(metrics=False)
    numbers.count(req, Source.PREDICTED, 9, 7)
    numbers.count(req, Source.PAST, 3, 0)
    numbers.count(req, Source.PREDICTED, 2, 2)
    assert outputs(req, [False, False, True]) == [{ACCEPTED: {}}, {ACCEPTED: {}}, {ACCEPTED: {"predicted": 9}}]


def test_an_answer_without_drafts_says_so() -> None:
    assert outputs(Request(), [True]) == [{ACCEPTED: {}}]


def test_an_answer_of_a_server_that_does_not_draft_is_left_alone() -> None:
    meta = {"other": [1]}
    hooks.counted(None, None, meta)
    assert meta == {"other": [1]}
