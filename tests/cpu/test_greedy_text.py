"""The real model generates under paste_cpu what it generates under torch_native: tokens, and the bits of the logits.
Drafts have the bits of the same tokens decoded."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cpu_kernels import CAPABILITY, TORCHS_OWN
from real_server import MODEL

from sglang_paste.patches.cpu.compiled import BUILDS

pytestmark = pytest.mark.host
SCRIPT = Path(__file__).parents[1] / "support" / "greedy_text.py"


@pytest.mark.timeout(300)
def test_text_and_logits_are_those_of_torch_native() -> None:
    command = [sys.executable, "-W", "ignore", str(SCRIPT), str(MODEL)]
    ran = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=280
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    result = json.loads(ran.stdout.splitlines()[-1])
    if CAPABILITY in BUILDS and not TORCHS_OWN:
        assert {"decoder stack", "linear layers", "logits"} <= set(result["armed"]), "install gcc"
    for run in result["runs"]:
        # What follows may differ where torch adds up a token that is decoded otherwise than one of a prompt.
        length = 1 if TORCHS_OWN else None
        assert run["paste_cpu"][:length] == run["torch_native"][:length]
        assert run["logits_equal"] or TORCHS_OWN
    if CAPABILITY == "AVX2" or TORCHS_OWN:
        assert result["verified"] == [True] * 3, "a draft has other bits than the same token decoded"
