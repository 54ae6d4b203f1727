"""Ports for servers that a test, a bench or the demo starts."""

import random
import socket

LOWEST, HIGHEST = 20_000, 31_900


def free_ports(count: int) -> list[int]:
    """`count` ports in a row that nobody listens on, below the range from which the system draws its own."""
    while True:
        first = random.randrange(LOWEST, HIGHEST)
        ports = list(range(first, first + count))
        if all(map(_is_free, ports)):
            return ports


def free_port() -> int:
    """A port that nobody listens on, and nobody on the one above."""
    return free_ports(2)[0]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0
