"""Where a call runs: Triton where it can, and the CPU's version elsewhere."""

from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
from kernel_process import choose

from sglang_paste.kernels.device import uses_triton

TEXT, ONES = torch.tensor([[1, 2, 3, 1, 2]]), torch.ones(1, dtype=torch.int64)


def test_lookup_runs_in_the_interpreter(interpreter: ProcessPoolExecutor) -> None:
    options = {"min_match": 1, "max_match": 4, "draft": 2}
    found, by_triton = interpreter.submit(choose, "ngram_match", TEXT, 5 * ONES, **options).result(timeout=100)
    assert by_triton
    assert (found.tokens.tolist(), found.count.tolist(), found.length.tolist()) == ([[3, 1]], [2], [2])


def test_packing_runs_in_the_interpreter(interpreter: ProcessPoolExecutor) -> None:
    inputs = (ONES, TEXT[:, None], ONES[:, None], ONES, ONES)
    packed, by_triton = interpreter.submit(choose, "draft_pack", *inputs, width=2).result(timeout=100)
    assert by_triton
    assert (packed.tokens.tolist(), packed.source.tolist()) == ([1, 1], [[-1, 0]])


def test_the_interpreter_is_chosen_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert not uses_triton(TEXT)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert uses_triton(TEXT)
