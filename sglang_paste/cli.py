"""The `sglang-paste` command."""

import argparse
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Sequence

import msgspec

from sglang_paste import __version__
from sglang_paste.config import Settings
from sglang_paste.errors import ConfigError, PasteError

ENABLE = "--enable-tool-speculation"
_PR_SET_PDEATHSIG = 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; an error of ours is one sentence on standard error and exit code 2."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if arguments[:1] == ["serve"]:
            return _serve(arguments[1:])
        args = _parser().parse_args(arguments)
        run: Callable[[argparse.Namespace], int] = args.run
        return run(args)
    except PasteError as error:
        print(f"sglang-paste: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sglang-paste", description="Tool speculation for SGLang.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser(
        "serve",
        add_help=False,
        help="check, then `sglang serve` with the same arguments; tool speculation is switched on",
    )
    check = commands.add_parser("check", help="compare the hooks with the installed SGLang")
    check.add_argument("--json", action="store_true", help="print the findings as JSON")
    check.set_defaults(run=_check)
    _add_speculator(commands.add_parser("speculator", help="run the side process alone: tools behind a gateway"))
    tools = commands.add_parser("tools", help="list the tools, and what may run early or why not")
    tools.add_argument("config", metavar="TOOLS.TOML", help="the configuration to read")
    tools.add_argument("--json", action="store_true", help="print the list as JSON")
    tools.set_defaults(run=_tools)
    _add_mining(commands)
    timeline = commands.add_parser("timeline", help="draw what overlapped: lanes for model, tools and early runs")
    timeline.add_argument("source", metavar="SOURCE", help="the URL of a gateway, or a JSON file of spans")
    timeline.add_argument("-o", "--output", metavar="FILE", default="timeline.html", help="default: %(default)s")
    timeline.add_argument("--api-key-env", metavar="NAME", help="the environment variable that holds the bearer token")
    timeline.set_defaults(run=_timeline)
    return parser


def _add_mining(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    from sglang_paste.mine import flags

    flags.add_mine(commands.add_parser("mine", help="find patterns in recorded sessions"))
    flags.add_eval(commands.add_parser("eval", help="say how well recorded sessions are predicted"))


def _add_speculator(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--settings", choices=["-"], help="read the settings as JSON from standard input")
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--tool-config", metavar="PATH", help="the tools.toml to serve (default: no tools)")
    parser.add_argument("--host", default="127.0.0.1", help="where the gateway listens (default: %(default)s)")
    parser.add_argument("--port", type=int, default=30001, help="the gateway's port (default: %(default)s)")
    parser.add_argument("--state-dir", metavar="PATH", help="where calls and patterns are kept over restarts")
    parser.add_argument("--api-key-env", metavar="NAME", help="the environment variable that holds the bearer token")
    parser.add_argument("--budget", metavar="N", type=int, help="how many tools may run early at once")
    parser.add_argument("--cpus", metavar="LIST", help="the cores of this process and its tools, as 1 or 2-3,6")
    parser.add_argument("--patterns", metavar="FILE", help="what `sglang-paste mine` found, to predict calls from")
    parser.set_defaults(run=_speculator)


def _serve(arguments: list[str]) -> int:
    from sglang_paste.patches.serve import serve

    return serve(arguments if ENABLE in arguments else [*arguments, ENABLE])


def _check(args: argparse.Namespace) -> int:
    from sglang_paste.patches.check import report

    return report(as_json=args.json)


def _speculator(args: argparse.Namespace) -> int:
    if args.settings is None:
        return _run_speculator(_own_settings(args))
    _die_with(args.parent)
    settings = msgspec.json.decode(sys.stdin.buffer.read(), type=Settings)
    try:
        return _run_speculator(settings)
    except PasteError as error:
        from sglang_paste.speculate.supervisor import SPECULATOR, leave_refusal

        leave_refusal(settings.run_dir, SPECULATOR, str(error))
        raise


def _run_speculator(settings: Settings) -> int:
    from sglang_paste.speculate.service import main as run

    return run(settings) or 0


def _own_settings(args: argparse.Namespace) -> Settings:
    from sglang_paste.patches import flags

    return flags.settle(
        tool_config=args.tool_config,
        host=args.host,
        port=args.port,
        state_dir=args.state_dir or flags.default_state_dir(args.port),
        budget=args.budget,
        api_key=_key(args.api_key_env),
        cpus=args.cpus,
        patterns=args.patterns,
    )


def _tools(args: argparse.Namespace) -> int:
    from sglang_paste.execute.listing import main as run

    return run(args.config, as_json=args.json)


def _timeline(args: argparse.Namespace) -> int:
    from sglang_paste.observe.timeline import main as run

    return run(args.source, args.output, _key(args.api_key_env))


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    if not (key := os.environ.get(variable)):
        raise ConfigError(f"--api-key-env names {variable}, which is not set; set it to the gateway's token")
    return key


def _die_with(parent: int | None) -> None:
    """The side process is never left behind, not even by a server that was killed."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
