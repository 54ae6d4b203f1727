"""The launcher's flags, and what is refused before anything starts."""

import argparse
import atexit
import contextlib
import ipaddress
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sglang_paste.config import Settings, ToolConfig
from sglang_paste.draft.hints import Source
from sglang_paste.errors import ConfigError
from sglang_paste.patches import check
from sglang_paste.schedule.policies import DEFAULT_POLICY, POLICIES
from sglang_paste.schedule.warm import SLICE_TOKENS

HEADING = "tool speculation"
ENABLE = "--enable-tool-speculation"
FLAGS = (
    ENABLE,
    "--tool-config",
    "--tool-gateway-host",
    "--tool-gateway-port",
    "--tool-speculation-budget",
    "--tool-state-dir",
    "--tool-cpus",
    "--tool-patterns",
    "--tool-session-memory",
    "--tool-warm-slice",
    "--tool-retention-budget",
    "--tool-retention-policy",
    "--tool-return-bound",
    "--tool-draft-sources",
)

SESSION_MEMORY = 256
WARM_SLICE = 0
RETURN_BOUND = 5.0
DRAFTING = "NGRAM"
RETENTION_BUDGET = 0.8

_MAX_YAML_BYTES = 1024 * 1024
# What an address of a Unix socket can hold, less the name of the socket.
_MAX_RUN_DIR_BYTES = 90
_RUN_DIR = "sglang-paste-"


def mentioned(argv: Sequence[str]) -> bool:
    """Whether a command line asks for one of our flags, for help, or names a YAML file that has one of our keys."""
    for position, argument in enumerate(argv):
        name, _, value = argument.partition("=")
        if name in FLAGS or argument in ("-h", "--help"):
            return True
        if name == "--config" and _file_mentions(value or next(iter(argv[position + 1 :]), "")):
            return True
    return False


def add_flags(parser: argparse.ArgumentParser) -> None:
    """All our flags under one heading. None of them has a default, so that a flag without its switch is noticed."""
    group = parser.add_argument_group(HEADING, "Tools run while the model is still generating (sglang-paste).")
    group.add_argument(ENABLE, action="store_true", help="Run the tools of tools.toml early, behind a gateway.")
    group.add_argument("--tool-config", metavar="PATH", help="The tools.toml to serve. Default: no tools.")
    group.add_argument("--tool-gateway-host", metavar="HOST", help="Where the gateway listens. Default: 127.0.0.1.")
    group.add_argument(
        "--tool-gateway-port", metavar="PORT", type=int, help="The gateway's port. Default: the server's port + 1."
    )
    group.add_argument(
        "--tool-speculation-budget",
        metavar="N",
        type=int,
        help="How many tools may run early at once; 0 for none. Default: what tools.toml says.",
    )
    group.add_argument(
        "--tool-state-dir",
        metavar="PATH",
        help="Where calls and patterns are kept over restarts. Default: ~/.local/state/sglang-paste/<server port>.",
    )
    group.add_argument(
        "--tool-cpus", metavar="LIST", help="The cores of the side process and its tools, as 1 or 2-3,6. Default: all."
    )
    group.add_argument(
        "--tool-patterns", metavar="FILE", help="What `sglang-paste mine` found; calls are predicted from it."
    )
    group.add_argument(
        "--tool-session-memory",
        metavar="MIB",
        type=int,
        help="Memory for the tokens of conversations, so that a turn costs its new ones; 0 for none. Default: 256.",
    )
    group.add_argument(
        "--tool-warm-slice",
        metavar="TOKENS",
        type=int,
        help="How much of a session's next prompt is prefilled at a time at most, while nothing waits, once its tool's "
        "result is known; 0 for none, since what is prefilled in other pieces may differ in its last bits. "
        f"{SLICE_TOKENS} is a good value. Default: {WARM_SLICE}.",
    )
    group.add_argument(
        "--tool-retention-budget",
        metavar="SHARE",
        type=float,
        help="The share of the KV cache that sessions may keep while their tools run, as long as no request needs the "
        "room; 0 for none. Default: 0.8.",
    )
    group.add_argument(
        "--tool-retention-policy",
        choices=sorted(POLICIES),
        help="What decides which of them go first. Default: value.",
    )
    group.add_argument(
        "--tool-return-bound",
        metavar="SECONDS",
        type=float,
        help="Waiting requests go first whose session's next tool is worth most and that have least to prefill, and "
        "one that would push out a session that is back in a moment waits for it; nobody waits longer than this for "
        "it, and 0 leaves arrivals in their order. Default: 5.",
    )
    group.add_argument(
        "--tool-draft-sources",
        metavar="LIST",
        help=f"Where drafts come from with --speculative-algorithm {DRAFTING}: some of {', '.join(Source)}, or none. "
        "Default: all.",
    )


def read(args: argparse.Namespace, server_args: Any) -> Settings | None:
    """The settings our flags come to, or None where tool speculation is off.

    Raises ConfigError, or HookError for an SGLang outside the range, with the one thing that must be changed.
    """
    if not getattr(args, _attribute(ENABLE), False):
        if given := [flag for flag in FLAGS[1:] if getattr(args, _attribute(flag), None) is not None]:
            raise ConfigError(f"{given[0]} is given without {ENABLE}; add {ENABLE} or leave it out")
        return None
    check.require_version()
    for reason in _bypasses(server_args):
        raise ConfigError(f"{reason}; leave it out or start without {ENABLE}")
    if args.tool_warm_slice and (flag := _scattered(server_args)):
        raise ConfigError(f"--tool-warm-slice is given with {flag}, where it is not known who prefills; leave one out")
    host = args.tool_gateway_host or "127.0.0.1"
    port = server_args.port + 1 if args.tool_gateway_port is None else args.tool_gateway_port
    if port == server_args.port:
        raise ConfigError(f"--tool-gateway-port is {port}, the server's own port; choose another")
    return settle(
        tool_config=args.tool_config,
        host=host,
        port=port,
        state_dir=args.tool_state_dir or default_state_dir(server_args.port),
        budget=args.tool_speculation_budget,
        api_key=server_args.api_key,
        cpus=args.tool_cpus,
        patterns=args.tool_patterns,
        session_memory=args.tool_session_memory,
        warm_slice=args.tool_warm_slice,
        retention_budget=args.tool_retention_budget,
        retention_policy=args.tool_retention_policy,
        return_bound=args.tool_return_bound,
        draft_sources=draft_sources(args.tool_draft_sources, server_args.speculative_algorithm),
    )


def settle(
    *,
    tool_config: str | None,
    host: str,
    port: int,
    state_dir: str,
    budget: int | None,
    api_key: str | None,
    cpus: str | None,
    patterns: str | None = None,
    session_memory: int | None = None,
    warm_slice: int | None = None,
    retention_budget: float | None = None,
    retention_policy: str | None = None,
    return_bound: float | None = None,
    draft_sources: tuple[str, ...] = (),
) -> Settings:
    """Check every value and make the directories. Raises ConfigError."""
    if not is_loopback(host) and not api_key:
        raise ConfigError(f"the gateway would listen on {host} without a key; give --api-key or a loopback address")
    if budget is not None and budget < 0:
        raise ConfigError(f"the speculation budget is {budget}; give 0 or more")
    amounts = {
        "--tool-session-memory": session_memory,
        "--tool-warm-slice": warm_slice,
        "--tool-return-bound": return_bound,
    }
    for flag, value in amounts.items():
        if value is not None and value < 0:
            raise ConfigError(f"{flag} is {value}; give 0 or more")
    if retention_budget is not None and not 0 <= retention_budget <= 1:
        raise ConfigError(f"--tool-retention-budget is {retention_budget}; give a share of the cache from 0 to 1")
    cores = parse_cpus(cpus) if cpus else None
    tools = load_tools(tool_config) if tool_config else ToolConfig()
    require_free(host, port)
    return Settings(
        tool_config=str(Path(tool_config).resolve()) if tool_config else None,
        gateway_host=host,
        gateway_port=port,
        run_dir=make_run_dir(),
        state_dir=make_state_dir(state_dir),
        budget=budget,
        api_key=api_key or None,
        cpus=cores,
        patterns=check_patterns(patterns) if patterns else None,
        inert=inert_arguments(tools),
        session_memory=SESSION_MEMORY if session_memory is None else session_memory,
        warm_slice=WARM_SLICE if warm_slice is None else warm_slice,
        retention_budget=RETENTION_BUDGET if retention_budget is None else retention_budget,
        retention_policy=retention_policy or DEFAULT_POLICY,
        return_bound=RETURN_BOUND if return_bound is None else return_bound,
        draft_sources=draft_sources,
    )


def draft_sources(text: str | None, algorithm: str | None) -> tuple[str, ...]:
    """The sources of a list such as `predicted,history`, all where there is none. Raises ConfigError for one that there
    is not, and where nothing is drafted."""
    if (algorithm or "").upper() != DRAFTING:
        if text is not None:
            raise ConfigError(f"--tool-draft-sources needs --speculative-algorithm {DRAFTING}; give both or neither")
        return ()
    if text is None:
        return tuple(Source)
    names = [] if text.strip() == "none" else [name.strip() for name in text.split(",")]
    for name in names:
        if name not in list(Source):
            raise ConfigError(
                f"{name!r} in --tool-draft-sources is no source; choose among {', '.join(Source)}, or none"
            )
    return tuple(source for source in Source if source in names)


def load_tools(path: str) -> ToolConfig:
    """A whole tools.toml. Raises ConfigError."""
    from sglang_paste.execute.load import load_config

    return load_config(path)


def check_patterns(path: str) -> str:
    """The absolute path of a mined file that can be read. Raises ConfigError."""
    from sglang_paste.predict import load

    load(path)
    return str(Path(path).resolve())


def inert_arguments(config: ToolConfig) -> dict[str, tuple[str, ...]]:
    """The inert arguments of each tool that has some, by the name under which it is offered."""
    offered = {name: tool.inert for name, tool in config.tools.items()}
    for server, mcp in config.mcp.items():
        offered |= {f"{server}__{name}": policy.inert for name, policy in mcp.tools.items()}
    return {name: inert for name, inert in offered.items() if inert}


def is_loopback(host: str) -> bool:
    """Whether a host name or address is certainly this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def require_free(host: str, port: int) -> None:
    """Raise ConfigError unless a server can listen there."""
    if not 0 < port < 65536:
        raise ConfigError(f"the gateway's port is {port}; give --tool-gateway-port between 1 and 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"the gateway cannot listen on {host}:{port} ({reason}); choose another port") from error


def parse_cpus(text: str) -> tuple[int, ...]:
    """The cores of a list such as `1` or `2-3,6`. Raises ConfigError for one this process may not use."""
    cores: set[int] = set()
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not (low.isdecimal() and (high.isdecimal() or not dash)) or len(part) > 12:
            raise ConfigError(f"--tool-cpus is {text!r}; give cores as 1 or 2-3,6")
        cores.update(range(int(low), min(int(high or low), int(low) + 4096) + 1))
    allowed = _usable(cores)
    if not cores or cores != allowed:
        raise ConfigError(f"--tool-cpus is {text!r}, of which {_listed(allowed)} can be used here; choose among those")
    return tuple(sorted(cores))


def default_state_dir(port: int) -> str:
    """One directory per server, which the next start on the same port finds again."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return str(Path(base, "sglang-paste", str(port)))


def make_state_dir(path: str) -> str:
    """The directory, made if need be and closed to others. Raises ConfigError."""
    folder = Path(path).expanduser().absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise ConfigError(f"{folder} cannot hold state ({error.strerror}); give another --tool-state-dir") from error
    return str(folder)


def make_run_dir() -> str:
    """A new directory of mode 0700 that is removed when this process ends, with those that killed ones have left.

    Raises ConfigError.
    """
    base = tempfile.gettempdir()
    if len(base.encode()) > _MAX_RUN_DIR_BYTES - 30:
        raise ConfigError(
            f"the temporary directory {base} is too long a name for a socket; set TMPDIR to a shorter one"
        )
    for left in Path(base).glob(f"{_RUN_DIR}*-*"):
        owner = left.name.removeprefix(_RUN_DIR).partition("-")[0]
        if owner.isdecimal() and not Path("/proc", owner).exists() and left.lstat().st_uid == os.getuid():
            shutil.rmtree(left, ignore_errors=True)
    path = tempfile.mkdtemp(prefix=f"{_RUN_DIR}{os.getpid()}-", dir=base)
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def _bypasses(server_args: Any) -> Iterator[str]:
    """What would go around our hooks, by the name the operator knows it by."""
    from sglang.srt.environ import envs

    if server_args.tokenizer_worker_num > 1:
        yield f"--tokenizer-worker-num is {server_args.tokenizer_worker_num}; tool speculation needs one tokenizer"
    if envs.SGLANG_RUST_SERVER.get():
        yield "SGLANG_RUST_SERVER is set, and the Rust server goes around tool speculation"
    for name in ("use_ray", "grpc_mode", "smg_grpc_mode", "encoder_only", "skip_tokenizer_init"):
        if getattr(server_args, name, False):
            yield f"--{name.replace('_', '-')} goes around tool speculation"


def _scattered(server_args: Any) -> str | None:
    """The flag by which a request is not prefilled by the scheduler that receives it alone."""
    if server_args.disaggregation_mode != "null":
        return "--disaggregation-mode"
    if server_args.pp_size > 1:
        return "--pipeline-parallel-size"
    return "--enable-dp-attention" if server_args.enable_dp_attention else None


def _attribute(flag: str) -> str:
    return flag[2:].replace("-", "_")


def _file_mentions(path: str) -> bool:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read(_MAX_YAML_BYTES).replace("_", "-")
    except OSError:
        return False
    return any(flag[2:] in text for flag in FLAGS)


def _usable(cores: set[int]) -> set[int]:
    """Those of the cores that a thread of this process may run on, also where this one is bound to others."""
    found: set[int] = set()

    def probe() -> None:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, cores)
            found.update(os.sched_getaffinity(0) & cores)

    thread = threading.Thread(target=probe)
    thread.start()
    thread.join()
    return found


def _listed(cores: set[int]) -> str:
    return ", ".join(map(str, sorted(cores))) or "none"
