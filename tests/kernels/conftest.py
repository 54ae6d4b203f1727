"""One interpreter for all tests of kernels."""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
from kernel_process import run, triton_process


@pytest.fixture(scope="session")
def interpreter() -> Iterator[ProcessPoolExecutor]:
    with triton_process(TRITON_INTERPRET="1") as pool:
        yield pool


@pytest.fixture(scope="session")
def triton(interpreter: ProcessPoolExecutor) -> Callable[..., Any]:
    """Call an operation's Triton version by name; it answers with its last argument, which it wrote to."""
    return lambda *arguments: interpreter.submit(run, *arguments).result(timeout=100)
