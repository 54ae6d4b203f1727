"""The second version of the transforms, as far as it is imported."""

from .. import InterpolationMode

__all__ = ["InterpolationMode"]
