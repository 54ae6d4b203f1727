"""What holds for all tests: SGLang's CPU engine where it is the one set up, and the quick tests first."""

import asyncio
import atexit
import importlib.util
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings
from real_server import Server, running_server
from xdist.scheduler import LoadScopeScheduling

VERDICT = pytest.StashKey[int]()
SLOW = ("host", "e2e", "chaos")
# These use the one server with the real model, so that one process takes them all.
ONE_SERVER = ("tests/e2e/test_clients.py", "tests/e2e/test_mined.py", "tests/e2e/test_turns.py")
ONE_SERVER += ("tests/chaos/test_side_process.py",)
# Of these each test may go to another process.
SPREAD = ("tests/speculate/test_ledger_machine.py", "tests/patches/test_start.py")

if importlib.util.find_spec("sglang_paste_cpu"):
    os.environ |= {"SGLANG_USE_CPU_ENGINE": "1", "HF_HUB_OFFLINE": "1"}

# On two busy cores a time limit for one example says nothing; pytest-timeout ends what hangs. CI judges a change, so
# it draws the same examples every time; new ones are looked for everywhere else.
settings.register_profile("paste", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("paste")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A mistake shows before a server is started for it; but several processes begin with what takes longest."""
    wrong = [item.nodeid for item in items if "server" in item.fixturenames and item.location[0] not in ONE_SERVER]
    if wrong:
        raise pytest.UsageError(f"these use the server, and their files are missing from ONE_SERVER: {wrong}")
    items.sort(key=lambda item: max((SLOW.index(m) + 1 for m in SLOW if item.get_closest_marker(m)), default=0))
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: item.location[0] not in ONE_SERVER)


class Sharing(LoadScopeScheduling):
    """How several processes share the tests: by file, but for those that stand above."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return nodeid if file in SPREAD else "server" if file in ONE_SERVER else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Sharing:
    return Sharing(config, log)


@pytest.fixture(autouse=True)
def _standard_event_loop() -> None:
    """The side process and clients run on Python's own event loop; importing SGLang's server sets uvloop for all."""
    asyncio.set_event_loop_policy(None)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server with the real model for all tests that need one: a start takes a minute."""
    with running_server(tmp_path_factory.mktemp("server")) as server:
        yield server


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Keep the verdict for the end."""
    session.config.stash[VERDICT] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End at once: what SGLang's tokenizer manager leaves behind in this process faults when the interpreter ends,
    after the verdict is out, and would be taken for it."""
    if "sglang.srt.managers.tokenizer_manager" in sys.modules:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(config.stash.get(VERDICT, 3))
