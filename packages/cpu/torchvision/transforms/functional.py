"""Names that transformers and SGLang import; each refuses."""

from .. import refuse_images as pil_to_tensor
from .. import refuse_images as resize
from .. import refuse_images as to_tensor
from . import InterpolationMode

__all__ = ["InterpolationMode", "pil_to_tensor", "resize", "to_tensor"]
