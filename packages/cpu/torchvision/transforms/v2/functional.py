"""Names that transformers and SGLang import; each refuses."""

from torchvision.transforms.functional import InterpolationMode, pil_to_tensor, resize, to_tensor

__all__ = ["InterpolationMode", "pil_to_tensor", "resize", "to_tensor"]
