"""A recorded session as it is replayed: what arrives, what the model answers, what its tools return, and when."""

import re
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.replay.durations import LEAST_RECORDED_S, LEAST_S, fitted, uniform
from bench.replay.effects import declared, effect_of, key_of
from bench.replay.records import Effect
from sglang_paste.calls import canonical
from sglang_paste.errors import BadArguments
from sglang_paste.execute.load import NAME
from sglang_paste.execute.process import readable
from sglang_paste.mine.messages import Message, steps
from sglang_paste.mine.read import Reader
from sglang_paste.mine.records import Session
from sglang_paste.mine.split import Tasks, recording_key

DOMAINS = {
    "tau_bench": "customer service",
    "tau2_bench": "customer service",
    "agentcgroup_cc": "coding",
    "polybench_rovodev": "coding",
    "polybench_iswe": "coding",
    "hotpotqa_react": "search",
    "webdancer": "search",
    "deerflow": "search",
    "aila": "science",
}
# What would be read as a token of its own, or as a call.
_SPECIAL = re.compile(r"<(?=\||/?tool_call>|/?tool_response>)")


class Call(msgspec.Struct, frozen=True):
    """A call with what it returned. `seconds` is the tool's own run, before any time scale."""

    tool: str
    arguments: dict[str, Any]
    result: str
    effect: Effect
    seconds: float


class Answer(msgspec.Struct, frozen=True):
    """What arrives besides the results of the last answer's calls, what the model says to it, and what it calls."""

    arrives: tuple[Message, ...]
    content: str
    calls: tuple[Call, ...]


class Recording(msgspec.Struct, frozen=True):
    """A session to replay."""

    name: str
    source: str
    domain: str
    answers: tuple[Answer, ...]
    session: Session

    @property
    def calls(self) -> list[Call]:
        """All calls, in order."""
        return [call for answer in self.answers for call in answer.calls]

    @property
    def prompt_chars(self) -> int:
        """About what the last prompt holds."""
        arrived = sum(len(str(message["content"])) for answer in self.answers for message in answer.arrives)
        return arrived + self.said_chars + sum(len(call.result) for call in self.calls)

    @property
    def said_chars(self) -> int:
        """About what the model says."""
        return sum(len(answer.content) for answer in self.answers) + sum(len(str(c.arguments)) + 40 for c in self.calls)


# A call's key, and how often what it depends on had been written before.
Place = tuple[str, int]


def places(calls: Iterable[Call]) -> list[Place]:
    """Each call's key and state of the world. The same place, the same result."""
    written: Counter[str] = Counter()
    found: list[Place] = []
    for call in calls:
        resource = declared(call.tool).resource
        found.append((key_of(call.tool, call.arguments), written[resource]))
        written[resource] += call.effect == "write"
    return found


def record(session: Session, seed: int = 0) -> Recording:
    """The session as it is replayed. A call that nothing was written for since it was made before returns the same;
    one whose arguments are not JSON is left out."""
    answers: list[Answer] = []
    arrived: list[Message] = []
    for step in list(steps(session)):
        if step.turn.role != "assistant":
            arrived += [_message(message) for message in step.messages if message["role"] in ("system", "user")]
            continue
        calls = tuple(
            _call(session, len(answers), index, call, step.results[index] or "", step.durations[index], seed)
            for index, call in enumerate(step.calls)
            if _is_json(call.arguments)
        )
        content = _clean(step.turn.content)
        if not arrived and answers and not answers[-1].calls:
            last = answers.pop()
            arrived, content = list(last.arrives), f"{last.content}\n{content}".strip()
        if content or calls:
            answers.append(Answer(tuple(arrived), content, calls))
            arrived = []
    name = f"{session.source}/{session.session_id}"
    return Recording(
        name, session.source, DOMAINS.get(session.source, session.source), tuple(_consistent(answers)), session
    )


class Wanted(msgspec.Struct, frozen=True):
    """Which sessions are replayed: how many, how long they may be in characters, and how many calls they make. Of
    longer ones, the beginning is played."""

    count: int
    prompt_chars: int = 24_000
    said_chars: int = 4_000
    calls: tuple[int, int] = (2, 12)


def choose(recordings: Iterable[Recording], wanted: Wanted, seed: int = 0) -> list[Recording]:
    """As many of each domain as there are, in an order that depends on names and `seed` alone; of a task, by id or
    text, only one."""
    by_domain: dict[str, list[Recording]] = {}
    tasks = Tasks()
    for each in recordings:
        tasks.add(each.session)
        short = shortened(each, wanted)
        if _fits(short, wanted):
            by_domain.setdefault(short.domain, []).append(short)
    queues = [
        deque(_one_a_task(sorted(found, key=lambda each: uniform(seed, each.name)), tasks))
        for _, found in sorted(by_domain.items())
    ]
    chosen: list[Recording] = []
    while any(queues) and len(chosen) < wanted.count:
        chosen += [queue.popleft() for queue in queues if queue]
    return chosen[: wanted.count]


def shortened(each: Recording, wanted: Wanted) -> Recording:
    """As many of its first answers as are wanted, less those at the end that call nothing where it is cut."""
    kept = list(each.answers)
    while kept and not _is_short(msgspec.structs.replace(each, answers=tuple(kept)), wanted):
        kept.pop()
    while len(kept) < len(each.answers) and kept and not kept[-1].calls:
        kept.pop()
    return msgspec.structs.replace(each, answers=tuple(kept))


def read(paths: Sequence[Path]) -> list[Session]:
    """All sessions of files and folders, once."""
    return list({recording_key(session): session for session in Reader(paths)}.values())


def schemas(sessions: Iterable[Recording]) -> dict[str, dict[str, Any]]:
    """Each tool's JSON Schema, as far as calls show it: a server knows its tools, a recording does not say them."""
    seen: dict[str, list[dict[str, Any]]] = {}
    for each in sessions:
        for call in each.calls:
            if NAME.fullmatch(call.tool):
                seen.setdefault(call.tool, []).append(call.arguments)
    return {tool: _schema(found) for tool, found in sorted(seen.items())}


def tools(sessions: Iterable[Recording]) -> dict[str, list[str]]:
    """The tools that the agents of each source have: all that any of them calls."""
    seen: dict[str, set[str]] = {}
    for each in sessions:
        seen.setdefault(each.source, set()).update(call.tool for call in each.calls)
    return {source: sorted(filter(NAME.fullmatch, names)) for source, names in seen.items()}


def _schema(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    properties = {
        name: {"type": kinds.pop()} if len(kinds := {_kind(each[name]) for each in found if name in each}) == 1 else {}
        for name in dict.fromkeys(name for each in found for name in each)
    }
    required = [name for name in properties if all(name in each for each in found)]
    return {"type": "object", "properties": properties, "required": required}


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    names = {str: "string", int: "number", float: "number", list: "array", dict: "object"}
    return names.get(type(value), "null")


def _call(session: Session, turn: int, index: int, call: Any, result: str, recorded: float | None, seed: int) -> Call:
    known, arguments = declared(call.name), _clean_all(call.arguments)
    if recorded is None or recorded < LEAST_RECORDED_S.get(known.kind, LEAST_S):
        recorded = fitted(known.kind, session.source, session.session_id, turn, index, seed)
    return Call(call.name, arguments, _clean(result), effect_of(call.name, arguments), recorded)


def _message(message: Message) -> Message:
    return {"role": message["role"], "content": _clean(message["content"])}


def _consistent(answers: Sequence[Answer]) -> Iterator[Answer]:
    known: dict[Place, str] = {}
    order = iter(places(call for answer in answers for call in answer.calls))
    for answer in answers:
        calls = [
            msgspec.structs.replace(call, result=known.setdefault(next(order), call.result)) for call in answer.calls
        ]
        yield msgspec.structs.replace(answer, calls=tuple(calls))


def _clean(text: str) -> str:
    return _SPECIAL.sub("< ", readable(text.encode("utf-8", "replace"), cut=False))


def _clean_all(value: Any) -> Any:
    if isinstance(value, str):
        return _clean(value)
    if isinstance(value, list):
        return [_clean_all(each) for each in value]
    return {_clean(name): _clean_all(each) for name, each in value.items()} if isinstance(value, dict) else value


def _is_json(arguments: dict[str, Any]) -> bool:
    try:
        canonical(_clean_all(arguments))
    except BadArguments:
        return False
    return True


def _is_short(each: Recording, wanted: Wanted) -> bool:
    fits = each.prompt_chars <= wanted.prompt_chars and each.said_chars <= wanted.said_chars
    return fits and len(each.calls) <= wanted.calls[1]


def _fits(each: Recording, wanted: Wanted) -> bool:
    named = all(NAME.fullmatch(call.tool) for call in each.calls)
    return named and len(each.calls) >= wanted.calls[0] and bool(each.answers[0].arrives)


def _one_a_task(recordings: Sequence[Recording], tasks: Tasks) -> Iterator[Recording]:
    seen = set[bytes]()
    for each in recordings:
        task = tasks.of(each.session)
        if task not in seen:
            seen.add(task)
            yield each
