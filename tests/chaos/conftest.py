from collections.abc import Iterator

import pytest
from real_server import Server, running_server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose side process may be killed."""
    with running_server(tmp_path_factory.mktemp("chaos")) as server:
        yield server
