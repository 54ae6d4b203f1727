"""Scripted answers: which logits are raised, and what is an error, without a server."""

import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.forced import FORCED_IDS, plugin
from bench.forced.launch import environment
from bench.forced.scripts import Scripts

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import sglang.srt.managers.schedule_batch  # noqa: F401 -- what the plugin imports, without its warnings

pytestmark = pytest.mark.host

VOCABULARY, FREE = 1_000, 999


def steered(table: Scripts, slots: list[int], positions: list[int]) -> Any:
    """The best token of each row; FREE where none was raised."""
    logits = torch.zeros(len(slots), VOCABULARY, dtype=torch.bfloat16)
    logits[:, FREE] = 100
    table.steer(logits, torch.tensor(slots), torch.tensor(positions))
    return logits.argmax(-1).tolist()


def test_a_row_gets_what_its_script_has_behind_its_position() -> None:
    table = Scripts(4, "cpu")
    long = list(range(300, 900))
    table.put(1, 10, [11, 12, 13])
    table.put(3, 5, long)
    assert steered(table, [1, 1, 1], [9, 10, 11]) == [11, 12, 13]
    # In the midst of the prompt, behind the script, and without one.
    assert steered(table, [1, 1, 1, 0], [8, 12, 5_000, 9]) == [FREE] * 4
    assert steered(table, [3] * 600, list(range(4, 604))) == long
    # A tree: two guesses side by side, and one behind each.
    assert steered(table, [1, 1, 1, 1, 1], [9, 10, 10, 11, 11]) == [11, 12, 12, 13, 13]


def test_who_comes_into_a_slot_is_not_held_to_the_last_ones_script() -> None:
    table = Scripts(2, "cpu")
    table.put(0, 3, [4, 5])
    table.put(0, 0, [])
    assert steered(table, [0, 0], [2, 3]) == [FREE, FREE]


class Request:
    """What the hooks see of a request."""

    eos_token_ids = frozenset({8})

    def __init__(self, ids: list[int] | None, prompt: int = 3, rid: str = "r") -> None:
        custom = None if ids is None else {FORCED_IDS: ids}
        self.sampling_params = SimpleNamespace(custom_params=custom, max_new_tokens=99, ignore_eos=False)
        self.origin_input_ids = [0] * prompt
        self.rid = rid
        self.output_ids: list[int] = []
        self.to_finish: Any = None
        self.finished_reason: Any = None
        plugin.made(None, self)

    def finished(self) -> bool:
        return self.finished_reason is not None


def decide(req: Any, _count: int = 1) -> None:
    """SGLang's own decision, in short."""
    if req.to_finish is not None or len(req.output_ids) >= req.sampling_params.max_new_tokens:
        req.finished_reason = req.to_finish or SimpleNamespace(to_json=lambda: {"type": "length"})


def said(req: Request, *tokens: int) -> str:
    """How the request ended after it said these, or ""."""
    req.output_ids += tokens
    plugin.finishing(decide, req, len(tokens))
    return "" if req.finished_reason is None else str(req.finished_reason.to_json())


def test_an_answer_ends_where_its_script_does() -> None:
    req = Request([5, 6, 7])
    assert said(req, 5, 6) == ""
    assert req.sampling_params.ignore_eos
    # More than the script was accepted at once; SGLang cuts it off.
    assert "length" in said(req, 7, 9)


def test_one_that_ends_with_an_end_token_does_not_know_how_long_it_will_be() -> None:
    assert Request([5, 8]).sampling_params.max_new_tokens == 99
    assert Request([5, 6]).sampling_params.max_new_tokens == 2
    assert Request([*range(200), 8]).sampling_params.max_new_tokens == 201


def test_an_answer_that_leaves_its_script_is_an_error() -> None:
    req = Request([5, 6, 7])
    said(req, 5)
    assert "at token 1 it said (9,), its script (6,)" in said(req, 9)


def test_an_answer_that_ends_too_early_is_an_error() -> None:
    req = Request([5, 6, 7])
    req.sampling_params.max_new_tokens = 1
    assert "it ended after 1 tokens of 3" in said(req, 5)


def test_free_requests_are_let_alone() -> None:
    req = Request(None)
    assert req.sampling_params.max_new_tokens == 99
    assert said(req, 1, 2, 3) == ""


def test_a_batch_is_steered_by_slot_whatever_it_does() -> None:
    forced, free = Request([5, 6, 7, 8], prompt=3), Request(None, rid="free")
    runner = SimpleRunner()
    extend = mode(extend=True)
    batch = SimpleNamespace(forward_mode=extend, rids=["r", "free"], seq_lens=torch.tensor([3, 9]))
    batch.req_pool_indices = torch.tensor([4, 2])
    assert best(runner, batch, 2) == [5, FREE]
    batch.forward_mode, batch.seq_lens = mode(), torch.tensor([4, 10])
    assert best(runner, batch, 2) == [6, FREE]
    batch.forward_mode, batch.positions = mode(verify=True), torch.tensor([3, 4, 5, 9, 10, 11])
    assert best(runner, batch, 6) == [6, 7, 8, FREE, FREE, FREE]
    # Retracted, and prefilled again with what it had said, in another slot.
    batch.forward_mode, batch.seq_lens = extend, torch.tensor([9, 5])
    batch.rids, batch.req_pool_indices = ["free", "r"], torch.tensor([4, 1])
    assert best(runner, batch, 2) == [FREE, 7]
    del forced, free


def test_plugins_are_found_in_the_folder_alone(tmp_path: Any) -> None:
    found = environment(tmp_path, plugin.__name__ + ":register", BENCH="1")
    (entries,) = tmp_path.glob("plugins/*/entry_points.txt")
    assert entries.read_text() == "[sglang.srt.plugins]\nbench_0 = bench.forced.plugin:register\n"
    assert found["PYTHONPATH"].split(":")[0] == str(entries.parents[1])
    assert found["BENCH"] == "1"


class SimpleRunner:
    is_draft_worker = False

    def __init__(self) -> None:
        self.req_to_token_pool = SimpleNamespace(req_to_token=[None] * 8)


def mode(*, extend: bool = False, verify: bool = False) -> Any:
    return SimpleNamespace(is_extend_without_speculative=lambda: extend, is_target_verify=lambda: verify)


def best(runner: Any, batch: Any, rows: int) -> Any:
    logits = torch.zeros(rows, VOCABULARY)
    logits[:, FREE] = 100
    plugin.steer(runner, batch, logits)
    return logits.argmax(-1).tolist()
