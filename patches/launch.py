"""The hooks of the launcher: our flags, and the side process for as long as the server lives."""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from sglang_paste.patches import arm, bus, flags
from sglang_paste.speculate.supervisor import Supervisor

READY_WITHIN_S = 30.0

_supervisor: Supervisor | None = None


def add_flags(_result: None, parser: argparse.ArgumentParser) -> None:
    """After ServerArgs.add_cli_args: ours stand below SGLang's."""
    flags.add_flags(parser)


def read_flags(original: Callable[..., Any], cls: type, args: argparse.Namespace) -> Any:
    """Around ServerArgs.from_cli_args: settle our flags once SGLang's are read."""
    server_args = original(cls, args)
    settings = arm.or_stop(lambda: flags.read(args, server_args))
    if settings is not None:
        arm.hold(settings)
        server_args._paste = arm.without_key(settings)
    return server_args


def arm_main(_result: None, server_args: Any) -> None:
    """After ServerArgs.resolve_once: nothing that depends on the arguments is imported before they are resolved."""
    if getattr(server_args, "_paste", None) is not None:
        arm.or_stop(arm.arm_main)


def with_side_process(original: Callable[..., Any], server_args: Any, *args: Any, **kwargs: Any) -> Any:
    """Around launch_server: the side process starts while the model loads and ends with the server.

    A refusal, of the side process or of a child that found a hook amiss, ends the server with its sentence.
    """
    global _supervisor
    if server_args.node_rank > 0:
        return original(server_args, *args, **kwargs)
    command = [sys.executable, "-m", "sglang_paste.cli", "speculator", "--settings", "-", "--parent", str(os.getpid())]
    supervisor = _supervisor = Supervisor(arm.settings(), command=command, refused=_interrupt)
    supervisor.start()
    try:
        return original(server_args, *args, **kwargs)
    finally:
        supervisor.stop()
        if supervisor.refusal is not None:
            print(f"sglang-paste: {supervisor.refusal}", file=sys.stderr, flush=True)
            raise SystemExit(2)


def wait_for_gateway(*_args: Any, **_kwargs: Any) -> None:
    """Before the HTTP server: a server that says it is ready has its gateway.

    What the model's loading made of an interrupt, a refusal ends the start here at the latest.
    """
    bus.sink("api")
    if _supervisor is not None:
        _supervisor.wait_ready(READY_WITHIN_S)
        if _supervisor.refusal is not None:
            raise SystemExit(2)


def _interrupt() -> None:
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
