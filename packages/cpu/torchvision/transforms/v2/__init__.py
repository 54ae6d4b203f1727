"""The second version of the transforms, as far as it is imported."""

from torchvision.transforms import InterpolationMode

__all__ = ["InterpolationMode"]
