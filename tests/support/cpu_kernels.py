"""Where the compiled CPU kernels can be compared with torch's own bits."""

import pytest
import torch

from sglang_paste.patches.cpu.compiled import BUILDS

CAPABILITY = torch.backends.cpu.get_cpu_capability()
TORCHS_OWN = torch.cpu._is_avx512_bf16_supported() and CAPABILITY == "AVX512"
needs_kernels = pytest.mark.skipif(
    CAPABILITY not in BUILDS or TORCHS_OWN,
    reason="torch uses neither AVX2 nor AVX-512 on this processor, or its bfloat16 instructions",
)

if CAPABILITY == "AVX2" and torch.cpu._is_avx512_supported():
    # Told to use less than there is, torch still hands products to oneDNN, which was not told.
    torch.backends.mkldnn.set_flags(False)
