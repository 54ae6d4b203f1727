"""What a result was measured on, and where it is kept."""

import json
import platform
import statistics
import subprocess
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"


def hardware() -> dict[str, Any]:
    import os

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    flags = next((set(line.split()) for line in lines if line.startswith("flags")), set[str]())
    vectors = next((name for name in ("avx512_bf16", "avx512f", "avx2") if name in flags), "")
    return {
        "cpu": model,
        "vectors": vectors,
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
    }


def versions() -> dict[str, str]:
    names = ("sglang", "torch", "sglang-paste")
    found = {name: metadata.version(name) for name in names}
    return {"python": platform.python_version(), **found}


def commit() -> str:
    """The commit of this tree, with `+` when files differ from it; `unknown` outside git."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    head = git("rev-parse", "--short", "HEAD")
    return f"{head}{'+' if git('status', '--porcelain', '-uno') else ''}" if head else "unknown"


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Median, 95th percentile and number of timings."""
    ordered = sorted(seconds)
    return {
        "n": len(ordered),
        "p50_s": round(statistics.median(ordered), 5),
        "p95_s": round(ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))], 5),
    }


def append(name: str, result: dict[str, Any]) -> Path:
    """Add one result to results/<name>.jsonl, with time, commit, hardware and versions."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.jsonl"
    head = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "commit": commit()}
    with path.open("a") as file:
        file.write(json.dumps({**head, "hardware": hardware(), "versions": versions(), **result}) + "\n")
    return path
