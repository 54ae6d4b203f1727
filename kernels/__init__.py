"""Tensor operations of speculative decoding, a folder each: `reference` is the truth, `host` and `triton` are fast."""
