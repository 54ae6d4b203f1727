"""Where a call runs."""

import os

from torch import Tensor


def uses_triton(tensor: Tensor) -> bool:
    """Whether Triton can run on this tensor: it is on a CUDA device, or TRITON_INTERPRET=1 chose the interpreter."""
    return bool(tensor.is_cuda) or os.environ.get("TRITON_INTERPRET") == "1"
