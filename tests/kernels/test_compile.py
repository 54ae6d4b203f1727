"""The Triton kernels compile for an H100: the interpreter takes what the compiler refuses."""

import inspect
from pathlib import Path
from typing import Any

import pytest
from kernel_process import triton_process

LONG = "*i64"
TEXTS = {"text": "*i32", "tail": "*i32", "lengths": LONG, "tail_lengths": LONG, "best": LONG}
PACKED = ("tokens", "positions", "retrieve_index", "retrieve_next_token", "retrieve_next_sibling")
KERNELS: list[tuple[str, str, dict[str, str], dict[str, Any]]] = [
    ("ngram_match", "_best_of_pieces", TEXTS, {"PIECE": 1024}),
    (
        "ngram_match",
        "_continue_best",
        TEXTS | {"voters": LONG, "tokens": "*i32", "counts": "*i32", "matched": "*i32", "begins": "*i32"},
        {"PIECES": 256, "DRAFT": 8, "PIECE": 1024, "VOTERS": 64, "FREQUENT": True},
    ),
    (
        "draft_pack",
        "_pack",
        dict.fromkeys(PACKED, LONG)
        | {"roots": LONG, "drafts": "*i32", "counts": "*i32", "seq_lens": LONG, "limits": "*i32"}
        | {"mask": "*i1", "full_mask": "*i1", "source": "*i8"},
        {"SOURCES": 3, "CHAIN": True, "FULL": True, "BATCH": 64, "DRAFT": 16, "WIDTH": 16},
    ),
]


def compiled(operation: str, kernel: str, pointers: dict[str, str], constants: dict[str, Any]) -> str:
    from importlib import import_module

    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    function = getattr(import_module(f"sglang_paste.kernels.{operation}.triton"), kernel)
    names = list(inspect.signature(function.fn).parameters)
    signature = {name: "constexpr" if name in constants else pointers.get(name, "i32") for name in names}
    source = ASTSource(function, signature, {(names.index(name),): value for name, value in constants.items()})
    ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32)).asm["ptx"]
    return str(ptx)


@pytest.mark.host
def test_kernels_compile_for_an_h100(tmp_path: Path) -> None:
    with triton_process(TRITON_INTERPRET="0", TRITON_CACHE_DIR=str(tmp_path)) as pool:
        for case in KERNELS:
            assert f".entry {case[1]}" in pool.submit(compiled, *case).result(timeout=100)
