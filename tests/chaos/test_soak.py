"""Sessions on the real scheduler with a pool that is far too small: everybody is answered, and nothing stays behind."""

from pathlib import Path

import pytest
from tiny_server import tiny_server

from bench import soak
from bench.turns import server as bench_server

pytestmark = [pytest.mark.e2e, pytest.mark.chaos, pytest.mark.timeout(600)]


def test_sessions_that_misbehave_leave_nothing_behind(tmp_path: Path) -> None:
    inherited = bench_server.probed(tmp_path / "probe")
    variables = {name: inherited[name] for name in ("PYTHONPATH", bench_server.FOLDER)} | soak.VARIABLES
    flags = (*bench_server.OURS, "--tool-state-dir", str(tmp_path), "--max-total-tokens", str(soak.POOL))
    with tiny_server(tmp_path / "log", *flags, "--attention-backend", "paste_cpu", **variables) as server:
        crowd = soak.Soak(server.port, *bench_server.tokenizer(), seed=1)
        crowd.run(50)
        crowd.fill()
        assert server.process.poll() is None
    assert crowd.happened["sessions"] == 50
    assert {"left", "aborted", "flushed"} <= crowd.happened.keys()
