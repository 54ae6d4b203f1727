"""What holds for all tests: SGLang's CPU engine where it is the one set up, and the quick tests first."""

import atexit
import importlib.util
import os
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings
from real_server import Server, running_server

VERDICT = pytest.StashKey[int]()
SLOW = ("host", "e2e", "chaos")
SERVER = "server"

if importlib.util.find_spec("sglang_paste_cpu"):
    os.environ |= {"SGLANG_USE_CPU_ENGINE": "1", "HF_HUB_OFFLINE": "1"}

# On two busy cores a time limit for one example says nothing; pytest-timeout ends what hangs. CI judges a change, so
# it draws the same examples every time; new ones are looked for everywhere else.
settings.register_profile("paste", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("paste")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A mistake shows before a server is started for it. Where several processes share the work, the tests of one
    server stay together, as those of one file do, and begin at once: they take longest."""
    items.sort(key=lambda item: max((SLOW.index(m) + 1 for m in SLOW if item.get_closest_marker(m)), default=0))
    if "PYTEST_XDIST_WORKER" in os.environ:
        for item in items:
            group = SERVER if SERVER in item.fixturenames else item.location[0]
            if not item.get_closest_marker("spread"):
                item.add_marker(pytest.mark.xdist_group(group))
        items.sort(key=lambda item: SERVER not in item.fixturenames)


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
