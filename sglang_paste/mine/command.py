"""`sglang-paste mine` and `sglang-paste eval`."""

import argparse
import hashlib
from pathlib import Path

import msgspec

from sglang_paste.errors import ConfigError
from sglang_paste.mine import plot, report
from sglang_paste.mine.evaluate import Evaluation, Sessions, mined
from sglang_paste.mine.progress import Progress
from sglang_paste.mine.read import FORMATS, Reader
from sglang_paste.mine.split import Split

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
    parser.set_defaults(run=run_mine)


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
    parser.set_defaults(run=run_eval)


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


def run_mine(args: argparse.Namespace) -> int:
    """Mine, write, and say what was read."""
    from sglang_paste.mine.learn import Miner
    from sglang_paste.predict import patternfile

    progress = Progress(quiet=args.quiet)
    reader = Reader(args.sessions, args.format, progress.fault)
    miner = Miner(k=_at_least_one(args.k))
    tenants: set[str] = set()
    for session in progress.reading(reader, "mining"):
        if args.tenant in (None, session.tenant):
            tenants.add(session.tenant)
            miner.add(session)
    if len(tenants) > 1 and not args.merge_tenants:
        raise ConfigError(
            f"the sessions are of {len(tenants)} tenants, and what one does may not be shown to another; "
            "choose one with --tenant, or merge them with --merge-tenants"
        )
    if args.tenant is not None and not tenants:
        raise ConfigError(f"there is no session of tenant {args.tenant!r} ({reader.counts}); name another")
    if not reader.counts.calls:
        raise ConfigError(f"there is no tool call to learn from ({reader.counts}); name other sessions")
    patterns = miner.finish(lambda share: progress.working("fitting", share))
    progress.end()
    patterns.tenant = "" if args.merge_tenants else tenants.pop()
    if args.shareable:
        patterns.recollections = {}
    size = patternfile.save(args.output, patterns)
    digest = hashlib.sha256(args.output.read_bytes()).hexdigest()
    print(f"{reader.counts}\n{args.output}: {size:,} bytes, SHA-256 {digest}")
    return 0


def run_eval(args: argparse.Namespace) -> int:
    """Evaluate, print the table, write what was asked for."""
    progress = Progress(quiet=args.quiet)
    trainer = mined(_at_least_one(args.k), lambda share: progress.working("fitting", share))
    evaluation = Evaluation(trainer, args.inert)
    told = _split(args, evaluation, progress) if args.sessions else _given(args, evaluation, progress)
    found = report.rows(evaluation.tallies)
    if not found:
        raise ConfigError(f"there is no tool call to predict ({told}); name other sessions to test")
    print(report.table(found))
    print(f"\n{report.summary(found, evaluation)}\n{told}")
    if args.json:
        settings = {name: str(value) for name, value in vars(args).items() if name not in ("run", "command")}
        everything = report.everything(found, evaluation, settings)
        _write(args.json, msgspec.json.format(msgspec.json.encode(everything), indent=1).decode())
    if args.plot:
        _write(args.plot, plot.reliability(evaluation.tallies))
    return 0


def _given(args: argparse.Namespace, evaluation: Evaluation, progress: Progress) -> str:
    if not (args.train and args.test):
        raise ConfigError(
            "eval needs sessions to learn from and others to test; name --train and --test, or --sessions"
        )
    train, test = (Reader(paths, args.format, progress.fault) for paths in (args.train, args.test))
    evaluation.run(progress.reading(train, "training"), progress.reading(test, "testing"))
    return f"trained on {train.counts}; tested on {test.counts}"


def _split(args: argparse.Namespace, evaluation: Evaluation, progress: Progress) -> str:
    if args.train or args.test:
        raise ConfigError("--sessions is split into a training and a test side; leave out --train and --test")
    folds, only = args.folds, args.only_fold
    if folds < 2 or (only is not None and not 0 <= only < folds):
        raise ConfigError(f"{folds} folds, of them number {only}, is no split; name at least 2, and one from 0 up")
    reader = Reader(args.sessions, args.format, progress.fault)
    split = Split(progress.reading(reader, "splitting"), folds, "session" if args.recurring else "task")
    told = str(reader.counts)
    again = Reader(args.sessions, args.format)

    def sessions(what: str) -> Sessions:
        return progress.reading(again, what)

    for part in range(folds) if only is None else (only,):
        evaluation.run(split.train(sessions("training"), part), split.test(sessions("testing"), part))
    return f"{told}; split into {folds} by {'session' if args.recurring else 'task'}"


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written ({error}); name a place that can") from error


def _at_least_one(k: int) -> int:
    if k < 1:
        raise ConfigError(f"a text cannot be seen in {k} tasks; name 1 or more")
    return k
