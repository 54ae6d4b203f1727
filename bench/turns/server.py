"""A server of the bench: stock SGLang or the same with more flags, with the probe in its processes."""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import httpx
import msgspec

from bench.forced import PLUGIN
from bench.forced.launch import ROOT, environment
from bench.launch import DEADLINE_S, Launch, launched
from bench.ports import free_ports
from bench.turns.client import Encode
from bench.turns.probe import FOLDER
from bench.turns.probe import PLUGIN as PROBE
from bench.turns.stamps import Stamps
from sglang_paste.schedule.warm import SLICE_TOKENS

MODEL = ROOT / ".cache" / "models" / "tiny"
OURS = ("--enable-tool-speculation", "--tool-warm-slice", str(SLICE_TOKENS))


class Server(msgspec.Struct, frozen=True):
    """A running server; what its processes write down is in `folder`. Ours has a gateway."""

    side: str
    port: int
    folder: Path
    pid: int
    gateway: int | None = None

    def stamps(self) -> Stamps:
        return Stamps(self.folder / "stamps")

    def flush(self) -> None:
        """Forget all prefixes. Raises SystemExit where the server does not."""
        deadline = time.monotonic() + DEADLINE_S
        while httpx.post(f"http://127.0.0.1:{self.port}/flush_cache", timeout=60).status_code != 200:
            if time.monotonic() > deadline:
                raise SystemExit(f"the cache of {self.side} cannot be flushed; see {self.folder / 'log'}")
            time.sleep(0.1)


@contextmanager
def servers(
    folder: Path,
    pool: int,
    extra: dict[str, Sequence[str]],
    model: Path = MODEL,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[list[Server]]:
    """Servers with a pool of so many tokens, one for each side and its own arguments, started together."""
    running, launches = [], []
    for side, arguments in extra.items():
        own = folder / f"{side}-{pool}"
        port, gateway = free_ports(2)
        command = [*_command(port, pool, model), *arguments]
        ours = OURS[0] in arguments
        if ours:
            command += ["--tool-gateway-port", str(gateway), "--tool-state-dir", str(own / "state")]
        launches.append(Launch(side, port, own / "log", command, {**probed(own), **variables}))
        running.append((side, port, own, gateway if ours else None))
    with launched(launches) as pids:
        yield [
            Server(side, port, own, pid, gateway) for (side, port, own, gateway), pid in zip(running, pids, strict=True)
        ]


def tokenizer() -> tuple[Encode, int]:
    """That of the model, and the token that ends an answer."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    return encode, json.loads((MODEL / "config.json").read_text())["eos_token_id"]


def _command(port: int, pool: int, model: Path) -> list[str]:
    weights = "auto" if any(model.glob("*.safetensors")) else "dummy"
    return [
        *(sys.executable, "-W", "ignore", "-m", "sglang.launch_server", "--model-path", str(model)),
        *("--load-format", weights, "--random-seed", "1", "--device", "cpu", "--attention-backend", "paste_cpu"),
        *("--port", str(port), "--log-level", "warning", "--skip-server-warmup", "--sleep-on-idle"),
        *("--max-total-tokens", str(pool), "--mem-fraction-static", "0.4", "--max-running-requests", "16"),
        *("--tool-call-parser", "hermes", "--served-model-name", "default", "--enable-cache-report"),
        *("--radix-eviction-policy", "lru"),
    ]


def probed(folder: Path) -> dict[str, str]:
    """The environment of a server with the probe in it; it writes to `folder`."""
    stamps = folder / "stamps"
    stamps.mkdir(parents=True)
    return environment(folder, PROBE, PLUGIN, **{FOLDER: str(stamps)})
