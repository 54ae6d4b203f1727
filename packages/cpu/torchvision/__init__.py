"""Text-only stand-in for torchvision: SGLang and transformers import it at start, no text path calls it."""

import sys
from typing import NoReturn

from sglang_paste_cpu import refuse_beside_real

refuse_beside_real(sys.path)

__version__ = "0.28.0"


def refuse_images(*args: object, **kwargs: object) -> NoReturn:
    """Take the place of every function on images."""
    raise NotImplementedError(
        "The CPU set-up has a text-only stand-in for torchvision and cannot process images or video: "
        "send text, or install SGLang with the real torchvision."
    )
