"""Which drafted tokens are kept when tokens are sampled; on a GPU SGLang's own kernels say so."""

from sglang_paste.kernels.verify.reference import target_probs, tree_speculative_sampling_target_only, verify

__all__ = ["target_probs", "tree_speculative_sampling_target_only", "verify"]
