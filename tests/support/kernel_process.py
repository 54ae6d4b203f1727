"""Our Triton kernels in the interpreter, which is chosen when Triton is imported, so in a process of its own."""

import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from typing import Any


@contextmanager
def triton_process(**environment: str) -> Iterator[ProcessPoolExecutor]:
    spawn = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(1, mp_context=spawn, initializer=_enter, initargs=(environment,))
    yield pool
    pool.shutdown(cancel_futures=True)


def _enter(environment: dict[str, str]) -> None:
    os.environ |= environment


def run(operation: str, *arguments: Any) -> Any:
    """Run `operation` of its folder's triton.py and return what it wrote, its last argument."""
    module = import_module(f"sglang_paste.kernels.{operation}.triton")
    getattr(module, operation)(*arguments)
    return arguments[-1]


def choose(operation: str, *arguments: Any, **options: Any) -> tuple[Any, bool]:
    """Call the operation as its users do; says whether Triton did the work."""
    written = getattr(import_module(f"sglang_paste.kernels.{operation}"), operation)(*arguments, **options)
    return written, f"sglang_paste.kernels.{operation}.triton" in sys.modules
