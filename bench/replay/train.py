"""What the predictor may know before: patterns of other tasks, and for some sessions, of others of their task."""

import hashlib
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate
from operator import eq
from pathlib import Path

import msgspec

from bench.forced.launch import ROOT
from bench.replay.durations import uniform
from bench.replay.recording import Recording
from sglang_paste.mine.learn import Miner
from sglang_paste.mine.records import Session, Turn
from sglang_paste.mine.split import Tasks, recording_key
from sglang_paste.predict import patternfile

CACHE = ROOT / ".cache" / "replay"
_RECURRING = 0.5
# Mining takes a quarter of a minute for 10,000 calls.
MOST_CALLS = 15_000


class Lessons(msgspec.Struct, frozen=True):
    """The sessions to learn from, those of recurring tasks first, and the names of those to be replayed whose task is
    among them."""

    train: list[Session]
    recurring: frozenset[str]


def lessons(sessions: Sequence[Session], played: Sequence[Recording], seed: int = 0) -> Lessons:
    """No session that is replayed is learned from, nor a copy, a beginning or a continuation of it. Of half of those
    whose task, by id or text, others have as well, the task is: they recur; of all others, no session of their task is
    learned from."""
    tasks, keys = Tasks(), {recording_key(each.session) for each in played}
    for session in sessions:
        tasks.add(session)
    by_task: dict[bytes, list[Session]] = {}
    for each in played:
        by_task.setdefault(tasks.of(each.session), []).append(each.session)
    keys |= {
        recording_key(session)
        for session in sessions
        if any(_is_one_course(session, other) for other in by_task.get(tasks.of(session), ()))
    }
    elsewhere = Counter(tasks.of(session) for session in sessions if recording_key(session) not in keys)
    recurring = frozenset(
        each.name
        for each in played
        if elsewhere[tasks.of(each.session)] and uniform("recurring", seed, each.session.task_id) < _RECURRING
    )
    unseen = {tasks.of(each.session) for each in played if each.name not in recurring}
    train = [each for each in sessions if recording_key(each) not in keys and tasks.of(each) not in unseen]
    seen = frozenset(each.name for each in played if tasks.of(each.session) not in unseen and each.name in recurring)
    again = {tasks.of(each.session) for each in played if each.name in seen}
    train.sort(key=lambda each: (tasks.of(each) not in again, uniform(seed, each.source, each.session_id)))
    return Lessons(train, seen)


def _is_one_course(one: Session, other: Session) -> bool:
    """Whether one goes on where the other ends, or ends where it does: word for word the same until then."""
    return all(map(eq, map(_said, one.turns), map(_said, other.turns)))


def _said(turn: Turn) -> object:
    calls = [(call.name, call.arguments) for call in turn.tool_calls]
    return turn.role, turn.content, calls, [result.content for result in turn.tool_results]


def some(lessons: Lessons, most: int = MOST_CALLS) -> list[Session]:
    """As many of the sessions as have so many calls: a sample of all of them that is the same every time."""
    calls = list(accumulate(sum(len(turn.tool_calls) for turn in each.turns) for each in lessons.train))
    kept = lessons.train[: bisect_right(calls, most)]
    if len(kept) < len(lessons.train):
        told = f"patterns are mined from {len(kept)} of {len(lessons.train)} sessions of other tasks"
        print(told, file=sys.stderr, flush=True)
    return kept


def mined(train: Sequence[Session], k: int = 5) -> Path | None:
    """Their patterns; kept, so that the same sessions are mined once. None where there is nothing to learn."""
    if not any(turn.tool_calls for session in train for turn in session.turns):
        return None
    what = b"".join([*sorted(map(recording_key, train)), bytes([k, patternfile.VERSION])])
    digest = hashlib.blake2b(what, digest_size=12).hexdigest()
    path = CACHE / f"{digest}.patterns"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        miner = Miner(k=k)
        for session in train:
            miner.add(session)
        patterns = miner.finish()
        patterns.tenant = ""
        patternfile.save(path, patterns)
    return path
