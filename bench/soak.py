"""`python -m bench.soak`: very many sessions on one server whose pool is far too small, with clients that misbehave.

Clients leave in the middle of an answer and come back, abort requests and flush the cache, and the scheduler retracts
requests all the time. The gateway runs their tools, so that prompts are prefilled ahead, some of them for nothing.
Every request that is not left has to be answered, word by word. Then nothing may be held any more: SGLang's own check
of its pools is on, and a prompt that nearly fills the pool has to fit.
"""

import argparse
import json
import random
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx

from bench.turns.client import Agent, Encode
from bench.turns.script import TOOL_SECONDS, sizes, write
from bench.turns.server import OURS, servers, tokenizer
from bench.turns.session import text

POOL = 4_500
AT_ONCE = 12
# Each is of so many turns, and ends at so many tokens.
TURNS, TOKENS = 3, 1_700
VARIABLES = {
    "SGLANG_TEST_RETRACT": "1",
    "SGLANG_TEST_RETRACT_INTERVAL": "61",
    "SGLANG_ENABLE_STRICT_MEM_CHECK_DURING_BUSY": "1",
}
_LEAVES, _ABORTS, _FLUSHES = 0.15, 0.1, 0.02
_RUNS, _BRINGS = 0.6, 0.7
_SYSTEMS = 3
_RESULT = "\n".join(map(str, range(150)))
_TOOL = """
[tools.{name}]
kind = "command"
description = "Says the numbers."
argv = ["seq", "0", "149"]
effect = "pure"
observes = "local"
[tools.{name}.parameters]
type = "object"
required = ["path"]
properties = {{ path = {{ type = "string" }} }}
"""


def flags(folder: Path) -> tuple[str, ...]:
    """Those of the server: the tools of the sessions, and metrics. Writes to `folder`."""
    config = folder / "tools.toml"
    config.write_text("".join(_TOOL.format(name=name) for name in TOOL_SECONDS))
    return (*OURS, "--tool-config", str(config), "--tool-warm-slice", "128", "--enable-metrics")


def ranks(count: int) -> tuple[tuple[str, ...], dict[str, str]]:
    """The flags and the environment of a server of so many ranks."""
    if count == 1:
        return (), VARIABLES
    return ("--tp-size", str(count)), {**VARIABLES, "SGLANG_CPU_OMP_THREADS_BIND": "|".join(map(str, range(count)))}


class Gate:
    """Turns go through it at once; what has to be alone waits for them and keeps others out."""

    def __init__(self) -> None:
        self._inside = 0
        self._alone = False
        self._changed = threading.Condition()

    @contextmanager
    def together(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._alone)
            self._alone = True
            self._changed.wait_for(lambda: self._inside == 0)
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()


class Soak:
    """Sessions with one server, and with its gateway where its port is given; `happened` counts what they did."""

    def __init__(self, port: int, encode: Encode, end: int, *, seed: int, gateway: int | None = None) -> None:
        self._port, self._encode, self._end, self._seed = port, encode, end, seed
        self._url, self._gateway = f"http://127.0.0.1:{port}", gateway
        self._gate = Gate()
        self._systems = [text(random.Random(number), TOKENS // 4) for number in range(_SYSTEMS)]
        self.happened: Counter[str] = Counter()

    def run(self, sessions: int, *, at_once: int = AT_ONCE) -> None:
        """Play them all. Raises SystemExit for an answer that is missing or wrong."""
        step, began = max(1, sessions // 10), time.monotonic()
        with ThreadPoolExecutor(at_once) as pool:
            for number, done in enumerate([pool.submit(self._session, each) for each in range(sessions)], start=1):
                done.result()
                if number % step == 0:
                    told = f"{number} of {sessions} sessions; {time.monotonic() - began:.0f} s"
                    print(told, file=sys.stderr, flush=True)
        self._flush()

    def fill(self) -> None:
        """A prompt that nearly fills the pool. Raises SystemExit where it is not answered."""
        script = write("fill", [], first=POOL * 4 // 5)
        Agent(self._port, script, self._encode, self._end).turn()
        self._flush()

    def warmed(self) -> int:
        """The tokens that were prefilled ahead."""
        text = httpx.get(f"{self._url}/metrics", timeout=60, follow_redirects=True).text
        return sum(
            int(float(value)) for value in re.findall(r"^paste_warm_tokens_total{.*} (\S+)$", text, re.MULTILINE)
        )

    def _session(self, number: int) -> None:
        draw = random.Random(f"{self._seed} {number}")
        growth = sizes(f"{self._seed} {number}", TURNS, TOKENS // 2)
        script = write(f"{self._seed} {number}", growth, first=TOKENS // 2, system=draw.choice(self._systems))
        agent = Agent(self._port, script, self._encode, self._end)
        for _ in range(agent.length):
            if self._gateway and agent.turns and draw.random() < _RUNS:
                self._call(agent, draw)
            time.sleep(min(0.2, draw.expovariate(20.0)))
            if draw.random() < _FLUSHES:
                self._flush()
            with self._gate.together():
                self._disturb(agent, draw)
                agent.turn()
                self.happened["turns"] += 1
        self.happened["sessions"] += 1

    def _disturb(self, agent: Agent, draw: random.Random) -> None:
        if draw.random() < _LEAVES:
            agent.leave(draw.randrange(12))
            self.happened["left"] += 1
        if draw.random() < _ABORTS:
            agent.leave(4, self._abort)
            self.happened["aborted"] += 1

    def _call(self, agent: Agent, draw: random.Random) -> None:
        """Have the gateway run the call of the last answer; the session comes back with its result, or with another."""
        [(call_id, name, arguments)] = agent.turns[-1].calls
        body = {"call_id": call_id, "arguments": json.loads(arguments)}
        url = f"http://127.0.0.1:{self._gateway}/v1/tools/{name}"
        answer = httpx.post(url, json=body, timeout=120).raise_for_status().json()
        if answer["content"].strip() != _RESULT:
            raise SystemExit(f"the tool {name} answered {answer}")
        if draw.random() < _BRINGS:
            agent.bring(answer["content"])
        self.happened["ran"] += 1

    def _abort(self, rid: str) -> None:
        httpx.post(f"{self._url}/abort_request", json={"rid": rid}, timeout=60).raise_for_status()

    def _flush(self) -> None:
        """Flush the cache while no turn is under way. Raises SystemExit where requests do not end."""
        with self._gate.alone():
            deadline = time.monotonic() + 120
            while httpx.post(f"{self._url}/flush_cache", timeout=60).status_code != httpx.codes.OK:
                if time.monotonic() > deadline:
                    raise SystemExit("the cache cannot be flushed: requests that were left have not ended")
                time.sleep(0.05)
        self.happened["flushed"] += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--sessions", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ranks", type=int, default=1, help="that share each layer (tensor parallelism), a core each")
    parser.add_argument("--log", type=Path, help="keep the server's log here")
    arguments = parser.parse_args()
    encode, end = tokenizer()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        try:
            parallel, variables = ranks(arguments.ranks)
            sides: dict[str, Sequence[str]] = {"ours": (*flags(Path(folder)), *parallel)}
            with servers(Path(folder), POOL, sides, variables=variables) as (server,):
                soak = Soak(server.port, encode, end, seed=arguments.seed, gateway=server.gateway)
                soak.run(arguments.sessions)
                soak.fill()
                soak.happened["tokens prefilled ahead"] = soak.warmed()
        finally:
            if arguments.log:
                arguments.log.write_bytes((Path(folder) / f"ours-{POOL}" / "log").read_bytes())
    print(f"{time.monotonic() - began:.0f} s: {', '.join(f'{count} {what}' for what, count in soak.happened.items())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
