"""The flags of `sglang-paste mine` and `sglang-paste eval`. What they run is imported when it is run: every command
of `sglang-paste` reads the flags of all, the side process among them."""

import argparse
from pathlib import Path

from sglang_paste.mine.records import FORMATS

_FORMATS = (
    "Formats, recognised by the first line: our own JSON lines (a session each: source, session_id, task_id, turns), "
    "OpenAI chat JSON lines (a conversation each: messages), ATIF trajectories, and a gateway's journal.sqlite, which "
    "may be in use. Files may be compressed with gzip; a folder is read with all that is below it. A malformed line "
    "is reported and skipped."
)


def add_mine(parser: argparse.ArgumentParser) -> None:
    """The flags of `sglang-paste mine`."""
    parser.description = f"Find patterns in recorded sessions. {_FORMATS}"
    parser.add_argument("sessions", metavar="SESSIONS", nargs="+", type=Path, help="files or folders")
    parser.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="where the patterns go")
    tenants = parser.add_mutually_exclusive_group()
    tenants.add_argument("--tenant", metavar="NAME", help="only the sessions of this tenant, for this tenant")
    tenants.add_argument(
        "--merge-tenants", action="store_true", help="patterns of all tenants' sessions, for all of them"
    )
    parser.add_argument(
        "--shareable",
        action="store_true",
        help="leave out the calls that are kept verbatim, for their tenant alone, to know recurring tasks again",
    )
    _add_common(parser)
    parser.set_defaults(run=_run_mine)


def add_eval(parser: argparse.ArgumentParser) -> None:
    """The flags of `sglang-paste eval`."""
    parser.description = (
        "Train on some sessions and say how well the next call of others is predicted, beside simple baselines. Tasks "
        f"that stand on both sides, by id or by text, are reported apart. {_FORMATS}"
    )
    parser.add_argument("--train", metavar="DIR", nargs="+", type=Path, help="sessions to learn from")
    parser.add_argument("--test", metavar="DIR", nargs="+", type=Path, help="sessions to be predicted")
    parser.add_argument("--sessions", metavar="DIR", nargs="+", type=Path, help="instead of both: sessions to be split")
    parser.add_argument("--folds", metavar="N", type=int, default=4, help="split into N parts (default: %(default)s)")
    parser.add_argument(
        "--only-fold", metavar="I", type=int, help="test this part alone, from 0 (default: each in turn)"
    )
    parser.add_argument(
        "--recurring", action="store_true", help="split the sessions within tasks, instead of the tasks themselves"
    )
    parser.add_argument(
        "--inert", metavar="NAME", nargs="+", default=[], help="arguments that do not count, as NAME or TOOL.NAME"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write every number there")
    parser.add_argument(
        "--plot", metavar="FILE.svg", type=Path, help="draw predicted against observed probability there"
    )
    _add_common(parser)
    parser.set_defaults(run=_run_eval)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=FORMATS, help="the format of all files (default: recognised)")
    parser.add_argument(
        "--min-tasks",
        metavar="K",
        type=int,
        default=5,
        dest="k",
        help="a text becomes part of a pattern when seen in K tasks; 1 where the patterns stay with those whose "
        "sessions these are (default: %(default)s)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress")


def _run_mine(args: argparse.Namespace) -> int:
    from sglang_paste.mine.command import run_mine as run

    return run(args)


def _run_eval(args: argparse.Namespace) -> int:
    from sglang_paste.mine.command import run_eval as run

    return run(args)
