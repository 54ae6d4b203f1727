"""Names that transformers and SGLang import; each refuses."""

from torchvision import refuse_images as pil_to_tensor
from torchvision import refuse_images as resize
from torchvision import refuse_images as to_tensor
from torchvision.transforms import InterpolationMode

__all__ = ["InterpolationMode", "pil_to_tensor", "resize", "to_tensor"]
