"""The servers of the bench: the real model, each side with its own arguments, asleep while nothing is asked of them."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bench.decode.known import PLUGIN as KNOWN
from bench.decode.known import VARIABLE
from bench.decode.plugin import PLUGIN as GIVEN
from bench.forced import PLUGIN as FORCED
from bench.forced.launch import ROOT, environment
from bench.launch import Launch, launched
from bench.ports import free_ports

MODEL = ROOT / ".cache" / "models" / "smollm2-135m"
OURS = "--enable-tool-speculation"


class Server(msgspec.Struct, frozen=True):
    """A running server."""

    side: str
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def servers(
    folder: Path, sides: dict[str, Sequence[str]], known: Sequence[Sequence[int]] = ()
) -> Iterator[list[Server]]:
    """A server for each side and its arguments, started together; stock's NGRAM has given the `known` answers.

    Raises SystemExit where one does not start.
    """
    running, launches = [], []
    answers = folder / "answers.json"
    answers.write_bytes(msgspec.json.encode(known))
    for side, arguments in sides.items():
        own = folder / side
        own.mkdir()
        port, gateway = free_ports(2)
        command = [*_command(port), *arguments]
        plugin = KNOWN
        if OURS in arguments:
            command += ["--tool-gateway-port", str(gateway), "--tool-state-dir", str(own / "state")]
            plugin = GIVEN
        variables = environment(own, FORCED, plugin, **{VARIABLE: str(answers)})
        launches.append(Launch(side, port, own / "log", command, variables))
        running.append(Server(side, port))
    with launched(launches):
        yield running


def _command(port: int) -> list[str]:
    return [
        *(sys.executable, "-W", "ignore", "-m", "sglang.launch_server", "--model-path", str(MODEL)),
        *("--device", "cpu", "--attention-backend", "paste_cpu", "--port", str(port), "--log-level", "warning"),
        *("--skip-server-warmup", "--sleep-on-idle", "--max-total-tokens", "24576", "--mem-fraction-static", "0.95"),
        *("--tool-call-parser", "hermes", "--max-running-requests", "64"),
    ]
