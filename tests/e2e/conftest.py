from collections.abc import Iterator

import pytest
from real_server import Server, running_server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests of this folder: a start takes a minute."""
    with running_server(tmp_path_factory.mktemp("server")) as server:
        yield server
