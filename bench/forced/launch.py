"""How a bench brings plugins of its own into the servers it starts, and into no others."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]


def environment(folder: Path, *plugins: str, **variables: str) -> dict[str, str]:
    """The environment of a server on the CPU whose processes load these plugins (`module:function`).

    They are found by an entry point in `folder`, as those of an installed package are. Where several hook the same
    function, the first is the innermost. None of SGLang's variables is inherited.
    """
    metadata = folder / "plugins" / "bench_plugins-0.dist-info"
    metadata.mkdir(parents=True, exist_ok=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: bench-plugins\nVersion: 0\n")
    entries = "".join(f"bench_{number} = {plugin}\n" for number, plugin in enumerate(plugins))
    (metadata / "entry_points.txt").write_text(f"[sglang.srt.plugins]\n{entries}")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SGLANG_")}
    paths = [str(metadata.parent), str(ROOT), *filter(None, [inherited.get("PYTHONPATH")])]
    # Two threads on two cores that others use as well wait for each other most of the time.
    ours = {"SGLANG_USE_CPU_ENGINE": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return inherited | ours | {"PYTHONPATH": os.pathsep.join(paths)} | variables
