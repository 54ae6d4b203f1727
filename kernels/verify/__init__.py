"""Which drafted tokens are kept when tokens are sampled; on a GPU SGLang's own kernels say so."""

from sglang_paste.kernels.verify.reference import Sample, Verified, sample_tree

__all__ = ["Sample", "Verified", "sample_tree"]
