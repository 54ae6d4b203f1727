"""`sglang-paste mine` and `sglang-paste eval`."""

import argparse
import hashlib
from pathlib import Path

import msgspec

from sglang_paste.errors import ConfigError
from sglang_paste.mine import plot, report
from sglang_paste.mine.evaluate import Evaluation, Sessions, mined
from sglang_paste.mine.progress import Progress
from sglang_paste.mine.read import Reader
from sglang_paste.mine.split import Split


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
