"""Names that transformers and SGLang import; each refuses."""

import enum

from . import refuse_images as decode_image
from . import refuse_images as decode_jpeg
from . import refuse_images as read_image

__all__ = ["ImageReadMode", "decode_image", "decode_jpeg", "read_image"]


class ImageReadMode(enum.Enum):
    RGB = 3
