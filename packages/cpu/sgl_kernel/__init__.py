"""Stand-in for the CPU build of sgl_kernel: what SGLang imports from it when SGLANG_USE_CPU_ENGINE is set.

Plain torch, exact on integers. `torch.ops.sgl_kernel.convert_weight_packed` is left out on purpose: SGLang takes its
presence for AMX kernels, and without it uses its own torch code for every layer.
"""

import sys

from sglang_paste_cpu import refuse_beside_real

refuse_beside_real(sys.path)

from .cache import (  # noqa: E402
    assign_draft_cache_locs_contiguous_cpu,
    assign_extend_cache_locs_cpu,
    assign_req_to_token_pool_cpu,
    copy_all_layer_kv_cache_cpu,
)
from .sampling import murmur_hash32_cpu  # noqa: E402
from .speculative import (  # noqa: E402
    build_tree_kernel_efficient_cpu,
    fill_accept_out_cache_loc_cpu,
    fill_bonus_tokens_cpu,
    rotate_input_ids_cpu,
    verify_tree_greedy_cpu,
)

__version__ = "0.4.10"
__all__ = [
    "assign_draft_cache_locs_contiguous_cpu",
    "assign_extend_cache_locs_cpu",
    "assign_req_to_token_pool_cpu",
    "build_tree_kernel_efficient_cpu",
    "copy_all_layer_kv_cache_cpu",
    "fill_accept_out_cache_loc_cpu",
    "fill_bonus_tokens_cpu",
    "murmur_hash32_cpu",
    "rotate_input_ids_cpu",
    "verify_tree_greedy_cpu",
]
